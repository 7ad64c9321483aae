#include "wav.h"

#include <algorithm>
#include <cstring>

#include "error.h"

namespace edge_lab {
namespace {

constexpr uint64_t kMostWav = 64 << 20;

uint32_t little(const uint8_t* at, int width) {
  uint32_t value = 0;
  for (int i = width; i-- > 0;) value = value << 8 | at[i];
  return value;
}

[[noreturn]] void bad_wav(const std::string& name, const std::string& why) {
  throw Error(name + " could not be read as a recording.", why + ".",
              "convert it: sox INPUT -r 16000 -c 1 -b 16 OUTPUT.wav.");
}

void check_format(const uint8_t* chunk, size_t bytes, const std::string& name) {
  if (bytes < 16) bad_wav(name, "its format chunk is cut off");
  uint32_t format = little(chunk, 2);
  if (format == 0xfffe && bytes >= 40) format = little(chunk + 24, 2);  // "extensible": the real one is in its GUID
  const uint32_t channels = little(chunk + 2, 2), rate = little(chunk + 4, 4), bits = little(chunk + 14, 2);
  if (format != 1) bad_wav(name, "its samples are not PCM (format " + std::to_string(format) + ")");
  if (bits != 16) bad_wav(name, "its samples have " + std::to_string(bits) + " bits, 16 are needed");
  if (channels != 1) bad_wav(name, "it has " + std::to_string(channels) + " channels, 1 is needed");
  // Other rates need a resampling that Python, C++ and the apps all do alike; it belongs here once it is defined.
  if (rate != kSampleRate) bad_wav(name, "it has " + std::to_string(rate) + " samples a second, 16000 are needed");
}

}  // namespace

std::vector<float> decode_wav(const std::vector<uint8_t>& bytes, const std::string& name) {
  const uint8_t* data = bytes.data();
  if (bytes.size() < 12 || std::memcmp(data, "RIFF", 4) != 0 || std::memcmp(data + 8, "WAVE", 4) != 0) {
    bad_wav(name, "it is no RIFF/WAVE file");
  }
  bool known = false;
  size_t at = 12;
  while (bytes.size() - at >= 8) {
    const size_t size = little(data + at + 4, 4);
    const uint8_t* chunk = data + at + 8;
    const size_t left = bytes.size() - at - 8;
    if (std::memcmp(data + at, "fmt ", 4) == 0) {
      check_format(chunk, std::min(size, left), name);
      known = true;
    } else if (std::memcmp(data + at, "data", 4) == 0) {
      if (!known) bad_wav(name, "its samples come before their format");
      if (size > left) bad_wav(name, "it is cut off: " + std::to_string(left) + " of " + std::to_string(size) + " bytes");
      std::vector<float> samples(size / 2);
      for (size_t i = 0; i < samples.size(); ++i) {
        samples[i] = static_cast<float>(static_cast<int16_t>(little(chunk + 2 * i, 2))) / 32768.0f;
      }
      return samples;
    }
    if (size + (size & 1) > left) break;
    at += 8 + size + (size & 1);  // chunks begin at even places
  }
  bad_wav(name, "it holds no samples");
}

std::vector<float> read_wav(const fs::path& path) { return decode_wav(read_file(path, kMostWav), path.string()); }

void fit_length(const std::vector<float>& samples, float* to, size_t count) {
  const size_t copied = std::min(samples.size(), count);
  std::copy_n(samples.begin(), copied, to);
  std::fill(to + copied, to + count, 0.0f);
}

}  // namespace edge_lab
