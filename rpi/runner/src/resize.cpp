#include "resize.h"

#include <algorithm>
#include <cmath>

namespace edge_lab {
namespace {

constexpr int kBits = 22;  // 32 less 8 for a pixel and 2 for the overshoot of bicubic

double bilinear(double x) {
  x = std::abs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

double bicubic(double x) {  // Keys, a = -0.5
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

uint8_t rounded(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kBits, 0, 255)); }

}  // namespace

Taps taps(Filter filter, int64_t in, int64_t out, int64_t first, int64_t count) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double stretch = std::max(scale, 1.0);  // shrinking widens the filter: that is the antialiasing
  const double support = (filter == Filter::kBilinear ? 1.0 : 2.0) * stretch;
  const double step = 1.0 / stretch;
  Taps found;
  std::vector<double> exact;
  for (int64_t i = first; i < first + count; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const auto from = std::max(int64_t{0}, static_cast<int64_t>(center - support + 0.5));
    const auto to = std::min(in, static_cast<int64_t>(center + support + 0.5));
    exact.clear();
    double sum = 0.0;
    for (int64_t k = from; k < to; ++k) {
      const double x = (static_cast<double>(k) - center + 0.5) * step;
      exact.push_back(filter == Filter::kBilinear ? bilinear(x) : bicubic(x));
      sum += exact.back();
    }
    found.spans.push_back({from, exact.size(), found.weight.size()});
    for (double weight : exact) {
      if (sum != 0.0) weight /= sum;
      found.weight.push_back(static_cast<int32_t>(weight * (1 << kBits) + (weight < 0 ? -0.5 : 0.5)));
    }
  }
  return found;
}

std::vector<uint8_t> resized_window(const Plane& image, Filter filter, int64_t out_h, int64_t out_w, int64_t top,
                                    int64_t left, int64_t crop_h, int64_t crop_w) {
  constexpr int32_t kHalf = 1 << (kBits - 1);
  const auto channels = static_cast<size_t>(image.channels);
  const auto in_row = static_cast<size_t>(image.width) * channels, out_row = static_cast<size_t>(crop_w) * channels;
  const bool vertical = out_h != image.height, horizontal = out_w != image.width;
  const Taps across = horizontal ? taps(filter, image.width, out_w, left, crop_w) : Taps{};
  const Taps down = vertical ? taps(filter, image.height, out_h, top, crop_h) : Taps{};
  const int64_t first = vertical ? down.spans.front().from : top;
  const int64_t last = vertical ? down.spans.back().from + static_cast<int64_t>(down.spans.back().size) : top + crop_h;

  std::vector<uint8_t> middle(static_cast<size_t>(last - first) * out_row);
  for (int64_t y = first; y < last; ++y) {
    const uint8_t* from = image.data + static_cast<size_t>(y) * in_row;
    uint8_t* to = &middle[static_cast<size_t>(y - first) * out_row];
    if (!horizontal) {
      std::copy_n(from + static_cast<size_t>(left) * channels, out_row, to);
      continue;
    }
    for (const Taps::Span& span : across.spans) {
      const uint8_t* pixel = from + static_cast<size_t>(span.from) * channels;
      int32_t sum[3] = {kHalf, kHalf, kHalf};
      for (size_t k = 0; k < span.size; ++k) {
        const int32_t weight = across.weight[span.weights + k];
        for (size_t c = 0; c < channels; ++c) sum[c] += weight * pixel[k * channels + c];
      }
      for (size_t c = 0; c < channels; ++c) *to++ = rounded(sum[c]);
    }
  }
  if (!vertical) return middle;

  std::vector<uint8_t> window(static_cast<size_t>(crop_h) * out_row);
  std::vector<int32_t> sums(out_row);
  uint8_t* to = window.data();
  for (const Taps::Span& span : down.spans) {
    std::fill(sums.begin(), sums.end(), kHalf);
    for (size_t k = 0; k < span.size; ++k) {
      const int32_t weight = down.weight[span.weights + k];
      const uint8_t* row = &middle[static_cast<size_t>(span.from - first + static_cast<int64_t>(k)) * out_row];
      for (size_t i = 0; i < out_row; ++i) sums[i] += weight * row[i];
    }
    for (size_t i = 0; i < out_row; ++i) *to++ = rounded(sums[i]);
  }
  return window;
}

}  // namespace edge_lab
