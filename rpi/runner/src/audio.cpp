#include "audio.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "error.h"

namespace edge_lab {
namespace {

constexpr double kHalfWidth = 16, kBeta = 8.6, kPi = 3.14159265358979323846;
constexpr float kFullScale = 32767.0f / 32768.0f;
constexpr double kClipped = 0.05;
constexpr size_t kPiece = 1 << 14;  // samples

// Modified Bessel function of order 0 by its series, whose terms are all positive.
double bessel(double x) {
  double term = 1, sum = 1;
  for (int k = 1; term > sum * 1e-18; ++k) {
    term *= (x / 2 / k) * (x / 2 / k);
    sum += term;
  }
  return sum;
}

double sinc(double x) { return x == 0 ? 1 : std::sin(kPi * x) / (kPi * x); }

void refuse_unusable(WavReader& wav) {
  std::vector<float> piece(kPiece);
  float peak = 0;
  uint64_t full = 0;
  while (const size_t got = wav.read(piece.data(), piece.size())) {
    for (size_t i = 0; i < got; ++i) {
      const float level = std::abs(piece[i]);
      peak = std::max(peak, level);
      full += level >= kFullScale;
    }
  }
  char number[32];
  if (peak < kSilent) {
    std::snprintf(number, sizeof number, "%.6f", static_cast<double>(peak));
    throw Error(wav.name() + " is silent.", std::string("its loudest sample is ") + number + " of full scale.",
                "check the microphone and its level (arecord -l, alsamixer), and record again.");
  }
  const double clipped = static_cast<double>(full) / static_cast<double>(wav.count());
  if (clipped > kClipped && peak > 1) too_loud(wav.name(), peak);
  if (clipped > kClipped) {
    std::snprintf(number, sizeof number, "%.0f", 100 * clipped);
    throw Error(wav.name() + " is clipped.",
                std::string(number) + " % of its samples are at full scale: their true values are lost.",
                "lower the recording level and record again.");
  }
}

void refuse_rate(uint32_t rate) {
  if (rate >= kLeastRate && rate <= kMostRate) return;
  throw Error(std::to_string(rate) + " samples a second can't be used.",
              "rates from " + std::to_string(kLeastRate) + " to " + std::to_string(kMostRate) + " are converted.",
              "name the rate of the samples, such as 16000.");
}

}  // namespace

Resampler::Resampler(uint32_t rate, uint32_t wanted, int64_t first) : next_(first) {
  refuse_rate(rate);
  refuse_rate(wanted);
  const uint32_t common = std::gcd(rate, wanted);
  up_ = wanted / common, down_ = rate / common;
  if (up_ != down_) {
    cutoff_ = std::min(1.0, static_cast<double>(up_) / static_cast<double>(down_));
    width_ = kHalfWidth / cutoff_;
    before_ = static_cast<int64_t>(width_);
    phases_.resize(static_cast<size_t>(up_));
  }
  begin_ = std::max<int64_t>(0, reach(first));
}

const std::vector<double>& Resampler::taps(int64_t phase) {
  auto& found = phases_[static_cast<size_t>(phase)];
  if (!found.empty()) return found;
  found.resize(static_cast<size_t>(2 * before_ + 2));
  for (size_t i = 0; i < found.size(); ++i) {
    const double t = static_cast<double>(phase) / static_cast<double>(up_) -
                     static_cast<double>(static_cast<int64_t>(i) - before_);
    if (std::abs(t) > width_) continue;
    const double inside = std::max(0.0, 1 - (t / width_) * (t / width_));
    found[i] = cutoff_ * sinc(cutoff_ * t) * bessel(kBeta * std::sqrt(inside)) / bessel(kBeta);
  }
  return found;
}

float Resampler::output(int64_t n) {
  const auto& filter = taps(n * down_ % up_);
  const int64_t from = reach(n), end = begin_ + static_cast<int64_t>(held_.size());
  const int64_t last = std::min(from + static_cast<int64_t>(filter.size()), end);
  double sum = 0;
  for (int64_t k = std::max(from, begin_); k < last; ++k) {
    sum += static_cast<double>(held_[static_cast<size_t>(k - begin_)]) * filter[static_cast<size_t>(k - from)];
  }
  return static_cast<float>(sum);
}

void Resampler::push(const float* samples, size_t count, std::vector<float>& out) {
  if (up_ == down_) {
    out.insert(out.end(), samples, samples + count);
    return;
  }
  held_.insert(held_.end(), samples, samples + count);
  const int64_t end = begin_ + static_cast<int64_t>(held_.size());
  while (reach(next_) + 2 * before_ + 2 <= end) out.push_back(output(next_++));
  const int64_t unused = std::clamp<int64_t>(reach(next_) - begin_, 0, static_cast<int64_t>(held_.size()));
  held_.erase(held_.begin(), held_.begin() + unused);
  begin_ += unused;
}

void Resampler::finish(std::vector<float>& out) {
  if (up_ == down_) return;
  const int64_t all = length(begin_ + static_cast<int64_t>(held_.size()));
  while (next_ < all) out.push_back(output(next_++));
}

void hear(const fs::path& path, const Audio& audio, float* to) {
  WavReader wav(path);
  refuse_unusable(wav);
  const auto wanted = static_cast<int64_t>(audio.samples);
  const int64_t all = Resampler(wav.rate(), audio.sample_rate).length(static_cast<int64_t>(wav.count()));
  const int64_t kept = std::min(all, wanted), front = (wanted - kept) / 2;
  Resampler resampler(wav.rate(), audio.sample_rate, (all - kept) / 2);
  wav.seek(static_cast<uint64_t>(resampler.start()));
  std::fill(to, to + wanted, 0.0f);
  std::vector<float> piece(kPiece), out;
  for (int64_t done = 0; done < kept;) {
    out.clear();
    const size_t got = wav.read(piece.data(), piece.size());
    resampler.push(piece.data(), got, out);
    if (got == 0) resampler.finish(out);
    const int64_t more = std::min<int64_t>(static_cast<int64_t>(out.size()), kept - done);
    std::copy_n(out.begin(), more, to + front + done);
    done += more;
    if (got == 0) break;
  }
}

}  // namespace edge_lab
