// From raw outputs to answers and comparisons.
#pragma once

#include <string>
#include <vector>

#include "bundle.h"

namespace edge_lab {

struct Prediction {
  size_t index;
  std::string label;
  double score;
};

// Raw values of any dtype as doubles.
std::vector<double> values_of(const void* data, const TensorSpec& spec);

// Softmax (if the bundle says so) and the best top_k, best first; equal scores in class order, NaN last.
std::vector<Prediction> predict(std::vector<double> scores, const Bundle& bundle);

// Places of the `count` largest scores, best first.
std::vector<size_t> best(const std::vector<double>& scores, size_t count);

// Input tensor of a file, by what the bundle takes: a picture, a recording (task keyword), or raw values (.bin).
std::vector<uint8_t> input_of(const fs::path& path, const Bundle& bundle);

}  // namespace edge_lab
