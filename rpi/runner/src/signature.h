// What a file is by its first bytes, in the words of edge_lab/signals/signature.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace edge_lab {

constexpr size_t kStart = 64;  // bytes that are enough

struct Kind {
  std::string why, fix;
};

// What a file is that is neither JPEG nor PNG, and what to do; nullopt: no kind that is known here.
std::optional<Kind> not_a_picture(const uint8_t* start, size_t bytes);

// The same for a file that is no WAV.
std::optional<Kind> not_a_recording(const uint8_t* start, size_t bytes);

// The name of a kind of sound other than WAV that raw samples don't begin with by chance; "" if it is none.
std::string sound_in_pipe(const uint8_t* start, size_t bytes);

extern const char* const kToWav;

}  // namespace edge_lab
