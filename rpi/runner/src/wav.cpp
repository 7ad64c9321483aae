#include "wav.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "error.h"
#include "signature.h"

namespace edge_lab {
namespace {

constexpr uint32_t kPcm = 1, kFloat = 3, kExtensible = 0xfffe;
constexpr uint32_t kMostChannels = 16;
constexpr size_t kLayout = 40;  // bytes of a format chunk that count
constexpr size_t kPiece = 1 << 14;  // samples
constexpr uint64_t kUnknown = 0x7fff0000;  // sizes from here on stand in headers written before the end was known
constexpr double kCancelled = 0.01;  // the mean of the channels below this share of the loudest: they are opposite

uint32_t little(const uint8_t* at, uint32_t width) {
  uint32_t value = 0;
  for (uint32_t i = width; i-- > 0;) value = value << 8 | at[i];
  return value;
}

uint64_t size_of(const fs::path& path) {
  std::error_code none;
  const uint64_t size = fs::file_size(path, none);
  return none ? 0 : size;
}

std::string formatted(const char* how, double value) {
  char text[40];
  std::snprintf(text, sizeof text, how, value);
  return text;
}

}  // namespace

void too_loud(const std::string& name, float peak) {
  double white = static_cast<double>(peak);
  for (const int bits : {31, 23, 15}) {
    if (peak > kLoudest && static_cast<double>(peak) <= std::ldexp(1.0, bits)) white = std::ldexp(1.0, bits);
  }
  throw Error(name + " goes beyond full scale.",
              "its float samples go up to " + formatted("%g", static_cast<double>(peak)) + "; sound is from -1 to 1.",
              "divide them by " + formatted("%.10g", white) + " where they come from.");
}

void WavFormat::bad(const std::string& why) const {
  throw Error(name_ + " could not be read as a recording.", why + ".", kToWav);
}

void WavFormat::read_layout(const uint8_t* chunk, size_t bytes) {
  if (bytes < 16) bad("its format chunk is cut off");
  uint32_t format = little(chunk, 2);
  if (format == kExtensible && bytes >= 26) format = little(chunk + 24, 2);  // the real one is in its GUID
  const uint32_t channels = little(chunk + 2, 2), rate = little(chunk + 4, 4), block = little(chunk + 12, 2);
  const uint32_t bits = little(chunk + 14, 2);
  const bool whole = format == kPcm && (bits == 8 || bits == 16 || bits == 24 || bits == 32);
  if (!whole && !(format == kFloat && bits == 32)) {
    bad("its samples are of format " + std::to_string(format) + " with " + std::to_string(bits) +
                       " bits, not PCM of 8, 16, 24, 32 or float32");
  }
  if (channels < 1 || channels > kMostChannels || block != channels * bits / 8) {
    bad("its header contradicts itself: " + std::to_string(channels) + " channels of " +
                       std::to_string(bits) + " bits, " + std::to_string(block) + " bytes together");
  }
  if (rate < kLeastRate || rate > kMostRate) {
    bad("it claims " + std::to_string(rate) + " samples a second; " + std::to_string(kLeastRate) + " to " +
                       std::to_string(kMostRate) + " are read");
  }
  channels_ = channels, rate_ = rate, bits_ = bits, floats_ = format == kFloat;
}

double WavFormat::value(const uint8_t* at) const {
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

void WavFormat::decode(const uint8_t* from, size_t count, float* to) {
  const size_t width = bits_ / 8;
  for (size_t i = 0; i < count; ++i) {
    double sum = 0;
    for (size_t c = 0; c < channels_; ++c, from += width) {
      const double found = value(from);
      if (!std::isfinite(found)) bad("it holds values that are no numbers");
      loudest_ = std::max(loudest_, std::abs(found));
      sum += found;
    }
    to[i] = static_cast<float>(sum / channels_);
    peak_ = std::max(peak_, std::abs(to[i]));
  }
}

void WavFormat::refuse_cancelled() const {
  if (loudest_ < static_cast<double>(kSilent) || static_cast<double>(peak_) >= kCancelled * loudest_) return;
  throw Error(name_ + " has channels that cancel each other.",
              "one of its " + std::to_string(channels_) + " channels reaches " + formatted("%.6f", loudest_) +
                  " of full scale, their mean " + formatted("%.6f", static_cast<double>(peak_)) + ".",
              "keep one channel: ffmpeg -i INPUT -af 'pan=mono|c0=c0' OUTPUT.wav (Debian: sudo apt install ffmpeg).");
}

void WavStream::push(const uint8_t* bytes, size_t count, std::vector<float>& out) {
  held_.insert(held_.end(), bytes, bytes + count);
  while (!in_samples_) {
    const size_t passed = static_cast<size_t>(std::min<uint64_t>(skip_, held_.size()));
    held_.erase(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(passed));
    skip_ -= passed;
    if (skip_ > 0 || !chunk()) return;
  }
  samples(out);
}

bool WavStream::chunk() {
  if (held_.size() < 8) return false;
  const uint64_t size = little(&held_[4], 4);
  if (std::memcmp(held_.data(), "data", 4) == 0) {
    if (!format_.known()) format_.bad("its samples come before their format");
    endless_ = size >= kUnknown || size == 0;
    claimed_ = size, in_samples_ = true;
    if (!endless_ && size % format_.frame() != 0) format_.bad("its samples end in the middle of one");
    held_.erase(held_.begin(), held_.begin() + 8);
    return true;
  }
  if (std::memcmp(held_.data(), "fmt ", 4) == 0) {
    const auto wanted = static_cast<size_t>(std::min<uint64_t>(size, kLayout));
    if (held_.size() < 8 + wanted) return false;
    format_.read_layout(&held_[8], wanted);
  }
  skip_ = 8 + size + (size & 1);
  return true;
}

void WavStream::samples(std::vector<float>& out) {
  size_t usable = held_.size();
  if (!endless_) usable = static_cast<size_t>(std::min<uint64_t>(usable, claimed_ - done_));
  const size_t frame = format_.frame(), count = usable / frame, before = out.size();
  out.resize(before + count);
  format_.decode(held_.data(), count, out.data() + before);
  if (format_.peak() > kLoudest) too_loud(format_.name(), format_.peak());
  done_ += count * frame;
  held_.erase(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(count * frame));
  if (!endless_ && done_ == claimed_) held_.clear();  // other chunks may follow
}

void WavStream::finish() {
  if (!in_samples_ || (endless_ && done_ == 0)) format_.bad("it holds no samples");
  if (!endless_ && done_ < claimed_) {
    format_.bad("it is cut off: " + std::to_string(done_ + held_.size()) + " of " + std::to_string(claimed_) + " bytes");
  }
  format_.refuse_cancelled();
}

WavReader::WavReader(const fs::path& path) : WavReader(open_file(path), size_of(path), path.string()) {}

WavReader::WavReader(File file, uint64_t bytes, std::string name) : file_(std::move(file)), format_(std::move(name)) {
  read_header(bytes);
}

bool WavReader::read_chunk(uint64_t at, uint8_t* head) const {
  return fseeko(file_.get(), static_cast<off_t>(at), SEEK_SET) == 0 && std::fread(head, 1, 8, file_.get()) == 8;
}

// Whether the rest of the file is chunks to its end, and not the samples of a stream of unknown length.
bool WavReader::chunks_follow(uint64_t at, uint64_t bytes) const {
  uint8_t head[8];
  while (at + 8 <= bytes && read_chunk(at, head) &&
         std::all_of(head, head + 4, [](uint8_t letter) { return letter >= 0x20 && letter < 0x7f; })) {
    const uint64_t size = little(head + 4, 4);
    at += 8 + size + (size & 1);
  }
  return at == bytes || at == bytes + 1;
}

void WavReader::read_header(uint64_t bytes) {
  uint8_t head[kStart];
  const size_t begin = std::fread(head, 1, kStart, file_.get());
  if (begin < 12 || std::memcmp(head, "RIFF", 4) != 0 || std::memcmp(head + 8, "WAVE", 4) != 0) {
    if (const auto kind = not_a_recording(head, begin)) {
      throw Error(name() + " could not be read as a recording.", kind->why, kind->fix);
    }
    format_.bad("it is no RIFF/WAVE file");
  }
  for (uint64_t at = 12; at + 8 <= bytes;) {
    if (!read_chunk(at, head)) break;
    const uint64_t left = bytes - at - 8;
    uint64_t size = little(head + 4, 4);
    if (std::memcmp(head, "fmt ", 4) == 0) {
      const auto wanted = static_cast<size_t>(std::min({size, left, uint64_t{kLayout}}));
      format_.read_layout(head, std::fread(head, 1, wanted, file_.get()));
    } else if (std::memcmp(head, "data", 4) == 0) {
      if (!format_.known()) format_.bad("its samples come before their format");
      const uint64_t together = format_.frame();
      if (size >= kUnknown || (size == 0 && !chunks_follow(at + 8, bytes))) {
        size = left - left % together;  // a stream may end anywhere
      }
      if (size > left) format_.bad("it is cut off: " + std::to_string(left) + " of " + std::to_string(size) + " bytes");
      if (size == 0) break;
      if (size % together != 0) format_.bad("its samples end in the middle of one");
      start_ = at + 8, count_ = size / together;
      return;
    }
    at += 8 + size + (size & 1);  // chunks begin at even places
  }
  format_.bad("it holds no samples");
}

size_t WavReader::decode(float* to, size_t count) {
  const size_t together = format_.frame();
  const auto wanted = static_cast<size_t>(std::min<uint64_t>(count, count_ - at_));
  for (size_t done = 0; done < wanted;) {
    const size_t piece = std::min(kPiece, wanted - done);
    raw_.resize(piece * together);
    const uint64_t place = start_ + at_ * together;
    if (fseeko(file_.get(), static_cast<off_t>(place), SEEK_SET) != 0 ||
        std::fread(raw_.data(), 1, raw_.size(), file_.get()) != raw_.size()) {
      format_.bad("it became shorter while it was read");
    }
    format_.decode(raw_.data(), piece, to + done);
    done += piece, at_ += piece;
  }
  return wanted;
}

// Says how loud the whole file is.
void WavReader::refuse_loud() {
  std::vector<float> piece(kPiece);
  while (decode(piece.data(), piece.size()) != 0) {
  }
  too_loud(name(), format_.peak());
}

size_t WavReader::read(float* to, size_t count) {
  const size_t got = decode(to, count);
  if (format_.peak() > kLoudest) refuse_loud();
  if (at_ == count_) format_.refuse_cancelled();
  return got;
}

std::vector<float> decode_wav(const std::vector<uint8_t>& bytes, const std::string& name) {
  if (bytes.empty()) throw Error(name + " could not be read as a recording.", "it is an empty file.", "copy or download it again.");
  auto* data = const_cast<uint8_t*>(bytes.data());  // NOLINT: fmemopen only reads in mode "rb"
  File file(fmemopen(data, bytes.size(), "rb"), std::fclose);
  if (!file) throw Error(name + " can't be read.", "there is no memory for it.", "close other programs.");
  WavReader wav(std::move(file), bytes.size(), name);
  std::vector<float> samples(wav.count());
  wav.read(samples.data(), samples.size());
  return samples;
}

}  // namespace edge_lab
