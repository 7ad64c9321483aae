#include "preprocess.h"

#include <algorithm>

#include "error.h"
#include "resize.h"

namespace edge_lab {
namespace {

// ITU-R 601 luma in 16-bit fixed point, as Pillow's mode L.
std::vector<uint8_t> luma(const uint8_t* rgb, size_t pixels) {
  std::vector<uint8_t> grey(pixels);
  for (size_t i = 0; i < pixels; ++i) {
    const uint32_t sum = rgb[3 * i] * 19595u + rgb[3 * i + 1] * 38470u + rgb[3 * i + 2] * 7471u + 0x8000u;
    grey[i] = static_cast<uint8_t>(sum >> 16);
  }
  return grey;
}

}  // namespace

void preprocess(const uint8_t* rgb, int64_t height, int64_t width, const Recipe& recipe, float* to) {
  check_pixels(static_cast<uint64_t>(width), static_cast<uint64_t>(height), kMostPixels, "the picture");
  const int64_t long_side = recipe.resize * std::max(width, height) / std::min(width, height);
  const int64_t out_w = width <= height ? recipe.resize : long_side;
  const int64_t out_h = width <= height ? long_side : recipe.resize;
  const int64_t left = (out_w - recipe.crop_w) / 2, top = (out_h - recipe.crop_h) / 2;
  std::vector<uint8_t> grey;
  if (recipe.color == Color::kL) grey = luma(rgb, static_cast<size_t>(width * height));
  const int channels = recipe.channels();
  const Plane plane{channels == 1 ? grey.data() : rgb, height, width, channels};
  const auto window =
      resized_window(plane, recipe.filter, out_h, out_w, top, left, recipe.crop_h, recipe.crop_w);
  const auto step = static_cast<size_t>(channels);
  const size_t pixels = window.size() / step;
  for (size_t c = 0; c < step; ++c) {
    const size_t from = recipe.color == Color::kBgr ? 2 - c : c;
    const float mean = recipe.mean[c], std = recipe.std[c];
    for (size_t i = 0; i < pixels; ++i) {
      const float scaled = static_cast<float>(window[i * step + from]) * recipe.scale;
      *to++ = (scaled - mean) / std;
    }
  }
}

}  // namespace edge_lab
