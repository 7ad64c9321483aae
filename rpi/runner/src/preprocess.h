// Pixels to the input tensor, bit for bit as edge_lab.bundle.spec.preprocess.
#pragma once

#include "bundle.h"
#include "image.h"

namespace edge_lab {

// Writes 1 x channels x crop_h x crop_w floats to `to`. `rgb` is height x width x 3.
void preprocess(const uint8_t* rgb, int64_t height, int64_t width, const Recipe& recipe, float* to);

}  // namespace edge_lab
