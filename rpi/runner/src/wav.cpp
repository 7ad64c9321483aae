#include "wav.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.h"

namespace edge_lab {
namespace {

constexpr uint32_t kPcm = 1, kFloat = 3, kExtensible = 0xfffe;
constexpr uint32_t kMostChannels = 16;
constexpr size_t kPiece = 1 << 14;  // samples

uint32_t little(const uint8_t* at, uint32_t width) {
  uint32_t value = 0;
  for (uint32_t i = width; i-- > 0;) value = value << 8 | at[i];
  return value;
}

[[noreturn]] void bad_wav(const std::string& name, const std::string& why) {
  throw Error(name + " could not be read as a recording.", why + ".",
              "convert it: sox INPUT -r 16000 -c 1 -b 16 OUTPUT.wav.");
}

uint64_t size_of(const fs::path& path) {
  std::error_code none;
  const uint64_t size = fs::file_size(path, none);
  return none ? 0 : size;
}

}  // namespace

WavReader::WavReader(const fs::path& path) : WavReader(open_file(path), size_of(path), path.string()) {}

WavReader::WavReader(File file, uint64_t bytes, std::string name) : file_(std::move(file)), name_(std::move(name)) {
  read_header(bytes);
}

void WavReader::read_header(uint64_t bytes) {
  uint8_t head[40];
  if (bytes < 12 || std::fread(head, 1, 12, file_.get()) != 12 || std::memcmp(head, "RIFF", 4) != 0 ||
      std::memcmp(head + 8, "WAVE", 4) != 0) {
    bad_wav(name_, "it is no RIFF/WAVE file");
  }
  for (uint64_t at = 12; at + 8 <= bytes;) {
    if (fseeko(file_.get(), static_cast<off_t>(at), SEEK_SET) != 0 || std::fread(head, 1, 8, file_.get()) != 8) break;
    const uint64_t size = little(head + 4, 4), left = bytes - at - 8;
    if (std::memcmp(head, "fmt ", 4) == 0) {
      const auto wanted = static_cast<size_t>(std::min({size, left, uint64_t{sizeof head}}));
      read_layout(head, std::fread(head, 1, wanted, file_.get()));
    } else if (std::memcmp(head, "data", 4) == 0) {
      if (channels_ == 0) bad_wav(name_, "its samples come before their format");
      if (size > left) bad_wav(name_, "it is cut off: " + std::to_string(left) + " of " + std::to_string(size) + " bytes");
      const uint32_t together = channels_ * bits_ / 8;
      if (size == 0) break;
      if (size % together != 0) bad_wav(name_, "its samples end in the middle of one");
      start_ = at + 8, count_ = size / together;
      return;
    }
    at += 8 + size + (size & 1);  // chunks begin at even places
  }
  bad_wav(name_, "it holds no samples");
}

void WavReader::read_layout(const uint8_t* chunk, size_t bytes) {
  if (bytes < 16) bad_wav(name_, "its format chunk is cut off");
  uint32_t format = little(chunk, 2);
  if (format == kExtensible && bytes >= 26) format = little(chunk + 24, 2);  // the real one is in its GUID
  const uint32_t channels = little(chunk + 2, 2), rate = little(chunk + 4, 4), block = little(chunk + 12, 2);
  const uint32_t bits = little(chunk + 14, 2);
  const bool whole = format == kPcm && (bits == 8 || bits == 16 || bits == 24 || bits == 32);
  if (!whole && !(format == kFloat && bits == 32)) {
    bad_wav(name_, "its samples are of format " + std::to_string(format) + " with " + std::to_string(bits) +
                       " bits, not PCM of 8, 16, 24, 32 or float32");
  }
  if (channels < 1 || channels > kMostChannels || block != channels * bits / 8) {
    bad_wav(name_, "its header contradicts itself: " + std::to_string(channels) + " channels of " +
                       std::to_string(bits) + " bits, " + std::to_string(block) + " bytes together");
  }
  if (rate < kLeastRate || rate > kMostRate) {
    bad_wav(name_, "it claims " + std::to_string(rate) + " samples a second; " + std::to_string(kLeastRate) + " to " +
                       std::to_string(kMostRate) + " are read");
  }
  channels_ = channels, rate_ = rate, bits_ = bits, floats_ = format == kFloat;
}

double WavReader::value(const uint8_t* at) const {
  const uint32_t word = little(at, bits_ / 8);
  if (floats_) {
    float number;
    std::memcpy(&number, &word, sizeof number);
    return static_cast<double>(number);
  }
  if (bits_ == 8) return (static_cast<double>(word) - 128) / 128;
  const auto number = static_cast<int32_t>(word << (32 - bits_));  // its sign is at the top now
  return number / 2147483648.0;
}

size_t WavReader::read(float* to, size_t count) {
  const size_t width = bits_ / 8, together = channels_ * width;
  const auto wanted = static_cast<size_t>(std::min<uint64_t>(count, count_ - at_));
  for (size_t done = 0; done < wanted;) {
    const size_t piece = std::min(kPiece, wanted - done);
    raw_.resize(piece * together);
    const uint64_t place = start_ + at_ * together;
    if (fseeko(file_.get(), static_cast<off_t>(place), SEEK_SET) != 0 ||
        std::fread(raw_.data(), 1, raw_.size(), file_.get()) != raw_.size()) {
      bad_wav(name_, "it became shorter while it was read");
    }
    for (size_t i = 0; i < piece; ++i) {
      double sum = 0;
      for (size_t c = 0; c < channels_; ++c) sum += value(&raw_[i * together + c * width]);
      to[done + i] = static_cast<float>(sum / channels_);
      if (!std::isfinite(to[done + i])) bad_wav(name_, "it holds values that are no numbers");
    }
    done += piece, at_ += piece;
  }
  return wanted;
}

std::vector<float> decode_wav(const std::vector<uint8_t>& bytes, const std::string& name) {
  if (bytes.empty()) bad_wav(name, "it is no RIFF/WAVE file");
  auto* data = const_cast<uint8_t*>(bytes.data());  // NOLINT: fmemopen only reads in mode "rb"
  File file(fmemopen(data, bytes.size(), "rb"), std::fclose);
  if (!file) throw Error(name + " can't be read.", "there is no memory for it.", "close other programs.");
  WavReader wav(std::move(file), bytes.size(), name);
  std::vector<float> samples(wav.count());
  wav.read(samples.data(), samples.size());
  return samples;
}

}  // namespace edge_lab
