#include "predict.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "audio.h"
#include "error.h"
#include "preprocess.h"

namespace edge_lab {
namespace {

template <class T>
std::vector<double> widened(const void* data, size_t items) {
  std::vector<double> values(items);
  for (size_t i = 0; i < items; ++i) {
    T value;
    std::memcpy(&value, static_cast<const char*>(data) + i * sizeof(T), sizeof(T));  // files may be unaligned
    values[i] = static_cast<double>(value);
  }
  return values;
}

}  // namespace

std::vector<double> values_of(const void* data, const TensorSpec& spec) {
  const size_t items = spec.items();
  switch (spec.dtype) {
    case DType::kFloat32:
      return widened<float>(data, items);
    case DType::kFloat64:
      return widened<double>(data, items);
    case DType::kInt8:
      return widened<int8_t>(data, items);
    case DType::kInt16:
      return widened<int16_t>(data, items);
    case DType::kInt32:
      return widened<int32_t>(data, items);
    case DType::kInt64:
      return widened<int64_t>(data, items);
    default:
      return widened<uint8_t>(data, items);
  }
}

std::vector<size_t> best(const std::vector<double>& scores, size_t count) {
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  count = std::min(count, order.size());
  const auto before = [&](size_t a, size_t b) {
    const double x = scores[a], y = scores[b];
    if (std::isnan(x) || std::isnan(y)) return std::isnan(x) == std::isnan(y) ? a < b : std::isnan(y);
    return x != y ? x > y : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), before);
  order.resize(count);
  return order;
}

std::vector<Prediction> predict(std::vector<double> scores, const Bundle& bundle) {
  const auto& labels = bundle.label_names;
  if (!labels.empty() && labels.size() != scores.size()) {
    throw Error("the output has " + std::to_string(scores.size()) + " scores, the bundle has " +
                    std::to_string(labels.size()) + " labels.",
                "labels and program belong to different models.", "export the bundle again.");
  }
  if (bundle.softmax && !scores.empty()) {
    const double highest = *std::max_element(scores.begin(), scores.end());
    for (double& score : scores) score = std::exp(score - highest);
    const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
    for (double& score : scores) score /= sum;
  }
  std::vector<Prediction> found;
  for (const size_t i : best(scores, static_cast<size_t>(bundle.top_k))) {
    found.push_back({i, labels.empty() ? std::to_string(i) : labels[i], scores[i]});
  }
  return found;
}

std::vector<uint8_t> input_of(const fs::path& path, const Bundle& bundle) {
  if (path.extension() == ".bin") {
    const auto bytes = read_file(path, bundle.input.bytes());
    if (bytes.size() == bundle.input.bytes()) return bytes;
    throw Error(path.string() + " has " + std::to_string(bytes.size()) + " bytes.",
                "the input '" + bundle.input.name + "' has " + std::to_string(bundle.input.bytes()) + ".",
                "write raw little-endian " + std::string(name_of(bundle.input.dtype)) + " values of its shape.");
  }
  std::vector<uint8_t> bytes(bundle.input.bytes());
  auto* x = reinterpret_cast<float*>(bytes.data());
  if (bundle.recipe) {
    const Image image = read_image(path);
    preprocess(image.rgb.data(), image.height, image.width, *bundle.recipe, x);
  } else if (bundle.audio) {
    hear(path, *bundle.audio, x);
  } else {
    throw Error("model '" + bundle.model + "' has no preprocessing for " + path.string() + ".",
                "its task is '" + bundle.task + "', and its bundle names none.", "pass a ready tensor as a .bin file.");
  }
  return bytes;
}

}  // namespace edge_lab
