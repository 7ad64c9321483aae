// WAV files, read in pieces without trusting any of their bytes: edge_lab/wav.py in C++.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "files.h"

namespace edge_lab {

constexpr uint32_t kLeastRate = 4000, kMostRate = 192000;  // Hz

class WavReader {
 public:
  // Reads the header. PCM of 8, 16, 24 or 32 bits or float32, up to 16 channels. Throws Error for anything else, and
  // for a file that is cut off.
  explicit WavReader(const fs::path& path);
  WavReader(File file, uint64_t bytes, std::string name);

  uint32_t rate() const { return rate_; }
  uint64_t count() const { return count_; }  // samples of one channel
  const std::string& name() const { return name_; }

  // The next samples as float32 from -1 to 1, the mean of the channels; fewer than `count` only at the end. Throws
  // Error for values that are no numbers.
  size_t read(float* to, size_t count);
  void seek(uint64_t sample) { at_ = sample < count_ ? sample : count_; }

 private:
  void read_header(uint64_t bytes);
  void read_layout(const uint8_t* chunk, size_t bytes);
  double value(const uint8_t* at) const;

  File file_;
  std::string name_;
  uint32_t channels_ = 0, rate_ = 0, bits_ = 0;
  bool floats_ = false;
  uint64_t start_ = 0, count_ = 0, at_ = 0;
  std::vector<uint8_t> raw_;
};

// All samples of a file that lies in memory.
std::vector<float> decode_wav(const std::vector<uint8_t>& bytes, const std::string& name);

}  // namespace edge_lab
