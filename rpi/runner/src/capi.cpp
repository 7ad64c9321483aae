#include <algorithm>
#include <cstring>
#include <exception>
#include <mutex>
#include <string>

#include "edge_lab.h"
#include "error.h"
#include "json.h"
#include "predict.h"
#include "preprocess.h"
#include "session.h"
#include "wav.h"

using namespace edge_lab;  // NOLINT: one file, all of it the border

struct edge_lab_model {
  edge_lab_model(const char* path, int threads)
      : bundle(load_bundle(path, executorch_version())), session(bundle, threads) {}

  Bundle bundle;
  Session session;
  std::string info;
  std::mutex running;
};

namespace {

thread_local std::string last_error;  // NOLINT: that is what it is

// Runs `step` and keeps every exception on this side.
template <class Result, class Step>
Result guarded(Result failed, const Step& step) noexcept {
  try {
    return step();
  } catch (const std::exception& error) {
    try {
      last_error = error.what();
    } catch (...) {
      last_error.clear();
    }
  } catch (...) {
    last_error.clear();
  }
  return failed;
}

void need(bool good, const char* what) {
  if (!good) throw Error(std::string(what) + ".", "the call does not fit edge_lab.h.", "look at its comment there.");
}

void put_tensor(Json& json, const char* key, const TensorSpec& spec) {
  json.object(key).put("name", spec.name).all("shape", spec.shape).put("dtype", name_of(spec.dtype));
  json.put("bytes", spec.bytes()).end();
}

std::string describe(const Bundle& bundle, int threads) {
  Json json;
  json.object().put("name", bundle.name()).put("model", bundle.model).put("task", bundle.task);
  json.put("target", bundle.target).put("weights", bundle.weights).put("precision", bundle.scheme);
  json.put("executorch", executorch_version()).put("threads", threads);
  json.put("softmax", bundle.softmax).put("top_k", bundle.top_k).all("labels", bundle.label_names);
  put_tensor(json, "input", bundle.input);
  json.list("outputs");
  for (const TensorSpec& spec : bundle.outputs) put_tensor(json, nullptr, spec);
  return json.end().end().text();
}

}  // namespace

int edge_lab_abi_version(void) { return EDGE_LAB_ABI_VERSION; }
const char* edge_lab_last_error(void) { return last_error.c_str(); }

edge_lab_model* edge_lab_open(const char* bundle, int threads) {
  return guarded<edge_lab_model*>(nullptr, [&] {
    need(bundle != nullptr, "bundle is NULL");
    auto model = std::make_unique<edge_lab_model>(bundle, threads);
    model->info = describe(model->bundle, threads);
    return model.release();
  });
}

void edge_lab_close(edge_lab_model* model) { delete model; }

const char* edge_lab_info(const edge_lab_model* model) { return model == nullptr ? "" : model->info.c_str(); }

int edge_lab_preprocess_file(const edge_lab_model* model, const char* path, void* input, size_t bytes) {
  return guarded(-1, [&] {
    need(model != nullptr && path != nullptr && input != nullptr, "an argument is NULL");
    need(bytes == model->bundle.input.bytes(), "input has another size than the model's");
    const auto x = input_of(path, model->bundle);
    std::memcpy(input, x.data(), x.size());
    return 0;
  });
}

int edge_lab_preprocess_pixels(const edge_lab_model* model, const uint8_t* rgb, int64_t height, int64_t width,
                               void* input, size_t bytes) {
  return guarded(-1, [&] {
    need(model != nullptr && rgb != nullptr && input != nullptr, "an argument is NULL");
    need(model->bundle.recipe.has_value(), "this model takes no pictures");
    need(bytes == model->bundle.input.bytes(), "input has another size than the model's");
    preprocess(rgb, height, width, *model->bundle.recipe, static_cast<float*>(input));
    return 0;
  });
}

int edge_lab_run(edge_lab_model* model, const void* input, size_t input_bytes, void* const* outputs,
                 const size_t* bytes, size_t count) {
  return guarded(-1, [&] {
    need(model != nullptr && input != nullptr && outputs != nullptr && bytes != nullptr, "an argument is NULL");
    need(input_bytes == model->bundle.input.bytes(), "input has another size than the model's");
    need(count == model->bundle.outputs.size(), "the model has another number of outputs");
    for (size_t i = 0; i < count; ++i) {
      need(outputs[i] != nullptr && bytes[i] == model->bundle.outputs[i].bytes(), "an output has another size");
    }
    const std::lock_guard<std::mutex> turn(model->running);
    const auto& found = model->session.run(input);
    for (size_t i = 0; i < count; ++i) std::memcpy(outputs[i], found[i].data, found[i].bytes);
    return 0;
  });
}

int edge_lab_decode_file(const char* path, uint8_t* rgb, size_t bytes, int64_t* height, int64_t* width) {
  return guarded(-1, [&] {
    need(path != nullptr && height != nullptr && width != nullptr, "an argument is NULL");
    const Image image = read_image(path);
    *height = image.height, *width = image.width;
    if (rgb != nullptr) {
      need(bytes == image.rgb.size(), "rgb has another size than height x width x 3");
      std::memcpy(rgb, image.rgb.data(), bytes);
    }
    return 0;
  });
}

int edge_lab_preprocess_recipe(const char* recipe_json, const uint8_t* rgb, int64_t height, int64_t width, float* to,
                               size_t count) {
  return guarded(-1, [&] {
    need(recipe_json != nullptr && rgb != nullptr && to != nullptr, "an argument is NULL");
    const Recipe recipe = parse_recipe(recipe_json);
    const auto wanted = static_cast<size_t>(recipe.channels()) * static_cast<size_t>(recipe.crop_h) *
                        static_cast<size_t>(recipe.crop_w);
    need(count == wanted, "the recipe gives another number of values");
    preprocess(rgb, height, width, recipe, to);
    return 0;
  });
}

int64_t edge_lab_read_wav(const char* path, float* samples, size_t count) {
  return guarded<int64_t>(-1, [&] {
    need(path != nullptr && (samples != nullptr || count == 0), "an argument is NULL");
    const auto found = read_wav(path);
    std::copy_n(found.begin(), std::min(count, found.size()), samples);
    return static_cast<int64_t>(found.size());
  });
}

int edge_lab_sha256_file(const char* path, char* hex) {
  return guarded(-1, [&] {
    need(path != nullptr && hex != nullptr, "an argument is NULL");
    std::memcpy(hex, sha256_of(path).c_str(), 65);
    return 0;
  });
}
