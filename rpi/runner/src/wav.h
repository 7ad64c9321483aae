// WAV files, read in pieces without trusting any of their bytes: edge_lab/signals/wav.py in C++.
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

// What a header says about samples, and how bytes become them. Keeps the levels of all that it decoded.
class WavFormat {
 public:
  explicit WavFormat(std::string name) : name_(std::move(name)) {}

  // Reads a format chunk. Throws Error for anything but PCM of 8, 16, 24 or 32 bits or float32, up to 16 channels.
  void read_layout(const uint8_t* chunk, size_t bytes);
  bool known() const { return channels_ != 0; }
  uint32_t rate() const { return rate_; }
  size_t frame() const { return size_t{channels_} * bits_ / 8; }  // bytes of one sample of all channels
  const std::string& name() const { return name_; }
  [[noreturn]] void bad(const std::string& why) const;

  // `count` samples as float32, the mean of the channels. Throws Error for values that are no numbers.
  void decode(const uint8_t* from, size_t count, float* to);
  float peak() const { return peak_; }  // of the means that were decoded
  void refuse_cancelled() const;        // at the end: throws Error if the channels cancelled each other

 private:
  double value(const uint8_t* at) const;

  std::string name_;
  uint32_t channels_ = 0, rate_ = 0, bits_ = 0;
  bool floats_ = false;
  float peak_ = 0;
  double loudest_ = 0;  // of all channels
};

// A WAV that comes through a pipe: bytes in, samples out, by the same rules as a file.
class WavStream {
 public:
  explicit WavStream(std::string name) : format_(std::move(name)) {}

  // Takes any number of bytes and appends the samples that they complete.
  void push(const uint8_t* bytes, size_t count, std::vector<float>& out);
  void finish();                              // no more bytes come; throws Error if that is too early
  bool begun() const { return in_samples_; }  // the header is read
  uint32_t rate() const { return format_.rate(); }

 private:
  bool chunk();  // looks at a chunk before the samples; false: more bytes are needed
  void samples(std::vector<float>& out);

  WavFormat format_;
  std::vector<uint8_t> held_;
  uint64_t skip_ = 12, claimed_ = 0, done_ = 0;  // bytes to pass over; of samples: what the header says, and came
  bool in_samples_ = false, endless_ = false;
};

class WavReader {
 public:
  // Reads the header. PCM of 8, 16, 24 or 32 bits or float32, up to 16 channels; a stream of unknown length goes to the
  // end of the file. Throws Error for anything else, and for a file that is cut off.
  explicit WavReader(const fs::path& path);
  WavReader(File file, uint64_t bytes, std::string name);

  uint32_t rate() const { return format_.rate(); }
  uint64_t count() const { return count_; }  // samples of one channel
  const std::string& name() const { return format_.name(); }

  // The next samples as float32 from -1 to 1, the mean of the channels; fewer than `count` only at the end. Throws
  // Error for values that are no numbers or far beyond full scale, and at the end if the channels cancelled each other.
  size_t read(float* to, size_t count);
  void seek(uint64_t sample) { at_ = sample < count_ ? sample : count_; }

 private:
  void read_header(uint64_t bytes);
  bool read_chunk(uint64_t at, uint8_t* head) const;
  bool chunks_follow(uint64_t at, uint64_t bytes) const;
  size_t decode(float* to, size_t count);
  [[noreturn]] void refuse_loud();

  File file_;
  WavFormat format_;
  uint64_t start_ = 0, count_ = 0, at_ = 0;
  std::vector<uint8_t> raw_;
};

// All samples of a file that lies in memory.
std::vector<float> decode_wav(const std::vector<uint8_t>& bytes, const std::string& name);

}  // namespace edge_lab
