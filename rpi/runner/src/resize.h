// Pillow's antialiased resize in 8-bit fixed point, of the wanted part of the result only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bundle.h"

namespace edge_lab {

// For each of `count` outputs from `first` on: which inputs it is made of, and their weights.
struct Taps {
  struct Span {
    int64_t from;
    size_t size, weights;  // weights: place in `weight`
  };
  std::vector<Span> spans;
  std::vector<int32_t> weight;  // 22 bits behind the point
};

Taps taps(Filter filter, int64_t in, int64_t out, int64_t first, int64_t count);

struct Plane {
  const uint8_t* data;
  int64_t height, width;
  int channels;
};

// The window (top, left, crop_h, crop_w) of `image` resized to out_h x out_w. Computing the window alone gives the
// same bytes, and a very long picture needs no more memory than a square one.
std::vector<uint8_t> resized_window(const Plane& image, Filter filter, int64_t out_h, int64_t out_w, int64_t top,
                                    int64_t left, int64_t crop_h, int64_t crop_w);

}  // namespace edge_lab
