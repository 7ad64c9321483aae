// WAV files, read in pieces without trusting any of their bytes: edge_lab/wav.py in C++.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "files.h"

namespace edge_lab {

constexpr uint32_t kLeastRate = 4000, kMostRate = 192000;  // Hz
constexpr float kLoudest = 8.0f;   // 18 dB over full scale: floats above it are integers that nobody divided
constexpr float kSilent = 1e-4f;   // a peak below this is no recording of anything

// Samples beyond full scale: floats that are integers in truth, or too loud.
[[noreturn]] void too_loud(const std::string& name, float peak);

class WavReader {
 public:
  // Reads the header. PCM of 8, 16, 24 or 32 bits or float32, up to 16 channels; a stream of unknown length goes to the
  // end of the file. Throws Error for anything else, and for a file that is cut off.
  explicit WavReader(const fs::path& path);
  WavReader(File file, uint64_t bytes, std::string name);

  uint32_t rate() const { return rate_; }
  uint64_t count() const { return count_; }  // samples of one channel
  const std::string& name() const { return name_; }

  // The next samples as float32 from -1 to 1, the mean of the channels; fewer than `count` only at the end. Throws
  // Error for values that are no numbers or far beyond full scale, and at the end if the channels cancelled each other.
  size_t read(float* to, size_t count);
  void seek(uint64_t sample) { at_ = sample < count_ ? sample : count_; }

 private:
  void read_header(uint64_t bytes);
  void read_layout(const uint8_t* chunk, size_t bytes);
  bool read_chunk(uint64_t at, uint8_t* head) const;
  bool chunks_follow(uint64_t at, uint64_t bytes) const;
  double value(const uint8_t* at) const;
  size_t decode(float* to, size_t count);
  [[noreturn]] void refuse_loud();

  File file_;
  std::string name_;
  uint32_t channels_ = 0, rate_ = 0, bits_ = 0;
  bool floats_ = false;
  uint64_t start_ = 0, count_ = 0, at_ = 0;
  float peak_ = 0;       // of the means that were read
  double loudest_ = 0;   // of all channels
  std::vector<uint8_t> raw_;
};

// All samples of a file that lies in memory.
std::vector<float> decode_wav(const std::vector<uint8_t>& bytes, const std::string& name);

}  // namespace edge_lab
