// From a recording to what a model hears: the arithmetic of edge_lab/signals/audio.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bundle.h"
#include "wav.h"

namespace edge_lab {

// Another rate, for a stream: a Kaiser-windowed sinc in float64, rounded to float32 once. With wanted/rate = L/M in
// lowest terms, cutoff c = min(1, L/M) and half width w = 16/c input samples, output n is the sum of
// x[k] * c * sinc(c (t - k)) * I0(8.6 sqrt(1 - ((t - k)/w)^2)) / I0(8.6) over |t - k| <= w, t = n M/L.
class Resampler {
 public:
  // Gives the outputs from number `first` on. Throws Error for rates outside of kLeastRate to kMostRate.
  Resampler(uint32_t rate, uint32_t wanted, int64_t first = 0);

  int64_t length(int64_t samples) const { return (samples * up_ + down_ - 1) / down_; }
  int64_t start() const { return begin_; }  // number of the first input sample that is to be pushed

  // Appends to `out` whatever can be computed with these samples; at the end, the rest, with zeros after them.
  void push(const float* samples, size_t count, std::vector<float>& out);
  void finish(std::vector<float>& out);

 private:
  int64_t reach(int64_t n) const { return n * down_ / up_ - before_; }  // first input sample under output n
  const std::vector<double>& taps(int64_t phase);
  float output(int64_t n);

  int64_t up_, down_, before_ = 0, begin_ = 0, next_;
  double cutoff_ = 1, width_ = 0;
  std::vector<float> held_;                  // input samples from begin_ on
  std::vector<std::vector<double>> phases_;  // computed when they are needed: at odd rates there are thousands
};

// The input of one recording: resampled, then its middle, or all of it between zeros. Reads the file in pieces.
// Throws Error for files that can't be read, for silence, and if over 5 % of the samples are at full scale.
void hear(const fs::path& path, const Audio& audio, float* to);

}  // namespace edge_lab
