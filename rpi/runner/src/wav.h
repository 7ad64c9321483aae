// Recorded speech: 16-bit PCM, one channel, 16 kHz, to float32 from -1 to 1.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "files.h"

namespace edge_lab {

constexpr uint32_t kSampleRate = 16000;

// Samples as value / 32768, exactly. Throws Error for anything else than 16-bit mono PCM at 16 kHz.
std::vector<float> decode_wav(const std::vector<uint8_t>& bytes, const std::string& name);
std::vector<float> read_wav(const fs::path& path);

// As long as the model's input: cut at the end, or followed by silence.
void fit_length(const std::vector<float>& samples, float* to, size_t count);

}  // namespace edge_lab
