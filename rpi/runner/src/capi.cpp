#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <string>

#include "audio.h"
#include "edge_lab.h"
#include "error.h"
#include "json.h"
#include "listen.h"
#include "predict.h"
#include "preprocess.h"
#include "session.h"
#include "wav.h"

using namespace edge_lab;  // NOLINT: one file, all of it the border

struct OpenModel {
  OpenModel(const char* path, int threads)
      : bundle(load_bundle(path, executorch_version())), session(bundle, threads) {}

  Bundle bundle;
  Session session;
  std::string info;
  std::mutex running;
};

struct edge_lab_model {
  std::shared_ptr<OpenModel> open;  // listeners hold it as well
};

struct edge_lab_listener {
  edge_lab_listener(std::shared_ptr<OpenModel> model, uint32_t rate)
      : open(std::move(model)),
        recognizer(recognizer_of(open->bundle, open->session)),
        resampler(rate, open->bundle.audio->sample_rate) {}

  std::shared_ptr<OpenModel> open;
  Recognizer recognizer;
  Resampler resampler;
  std::vector<float> resampled;
  std::deque<Word> words;
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
  if (bundle.audio) {
    json.object("audio").put("sample_rate", static_cast<long>(bundle.audio->sample_rate));
    json.put("samples", bundle.audio->samples).end();
  } else {
    json.null("audio");
  }
  if (const auto words = allowed_difference(bundle)) {
    json.put("warning", *words);
  } else {
    json.null("warning");
  }
  put_tensor(json, "input", bundle.input);
  json.list("outputs");
  for (const TensorSpec& spec : bundle.outputs) put_tensor(json, nullptr, spec);
  return json.end().end().text();
}

int64_t heard(edge_lab_listener* listener) {
  const std::lock_guard<std::mutex> turn(listener->open->running);
  for (Word& word : listener->recognizer.push(listener->resampled.data(), listener->resampled.size())) {
    listener->words.push_back(std::move(word));
  }
  listener->resampled.clear();
  return static_cast<int64_t>(listener->words.size());
}

float loudest(const float* samples, size_t count) {
  float found = 0;
  for (size_t i = 0; i < count; ++i) found = std::max(found, std::abs(samples[i]));
  return found;
}

uint32_t checked_rate(int rate) {
  need(rate > 0, "a rate is a number of samples a second");
  return static_cast<uint32_t>(rate);
}

}  // namespace

int edge_lab_abi_version(void) { return EDGE_LAB_ABI_VERSION; }
const char* edge_lab_last_error(void) { return last_error.c_str(); }

edge_lab_model* edge_lab_open(const char* bundle, int threads) {
  return guarded<edge_lab_model*>(nullptr, [&] {
    need(bundle != nullptr, "bundle is NULL");
    auto open = std::make_shared<OpenModel>(bundle, threads);
    open->info = describe(open->bundle, threads);
    return new edge_lab_model{std::move(open)};
  });
}

void edge_lab_close(edge_lab_model* model) { delete model; }

const char* edge_lab_info(const edge_lab_model* model) { return model == nullptr ? "" : model->open->info.c_str(); }

int edge_lab_preprocess_file(const edge_lab_model* model, const char* path, void* input, size_t bytes) {
  return guarded(-1, [&] {
    need(model != nullptr && path != nullptr && input != nullptr, "an argument is NULL");
    need(bytes == model->open->bundle.input.bytes(), "input has another size than the model's");
    const auto x = input_of(path, model->open->bundle);
    std::memcpy(input, x.data(), x.size());
    return 0;
  });
}

int edge_lab_preprocess_pixels(const edge_lab_model* model, const uint8_t* rgb, int64_t height, int64_t width,
                               void* input, size_t bytes) {
  return guarded(-1, [&] {
    need(model != nullptr && rgb != nullptr && input != nullptr, "an argument is NULL");
    need(model->open->bundle.recipe.has_value(), "this model takes no pictures");
    need(bytes == model->open->bundle.input.bytes(), "input has another size than the model's");
    preprocess(rgb, height, width, *model->open->bundle.recipe, static_cast<float*>(input));
    return 0;
  });
}

int edge_lab_run(edge_lab_model* model, const void* input, size_t input_bytes, void* const* outputs,
                 const size_t* bytes, size_t count) {
  return guarded(-1, [&] {
    need(model != nullptr && input != nullptr && outputs != nullptr && bytes != nullptr, "an argument is NULL");
    need(input_bytes == model->open->bundle.input.bytes(), "input has another size than the model's");
    need(count == model->open->bundle.outputs.size(), "the model has another number of outputs");
    for (size_t i = 0; i < count; ++i) {
      need(outputs[i] != nullptr && bytes[i] == model->open->bundle.outputs[i].bytes(), "an output has another size");
    }
    const std::lock_guard<std::mutex> turn(model->open->running);
    const auto& found = model->open->session.run(input);
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

int64_t edge_lab_read_wav(const char* path, float* samples, size_t count, int* rate) {
  return guarded<int64_t>(-1, [&] {
    need(path != nullptr && rate != nullptr && (samples != nullptr || count == 0), "an argument is NULL");
    WavReader wav{fs::path(path)};
    wav.read(samples, count);
    *rate = static_cast<int>(wav.rate());
    return static_cast<int64_t>(wav.count());
  });
}

int64_t edge_lab_resample(const float* samples, size_t count, int rate, int wanted, float* to, size_t most) {
  return guarded<int64_t>(-1, [&] {
    need((samples != nullptr || count == 0) && (to != nullptr || most == 0), "an argument is NULL");
    Resampler resampler(checked_rate(rate), checked_rate(wanted));
    std::vector<float> out;
    if (most > 0) {
      resampler.push(samples, count, out);
      resampler.finish(out);
    }
    std::copy_n(out.begin(), std::min(most, out.size()), to);
    return resampler.length(static_cast<int64_t>(count));
  });
}

edge_lab_listener* edge_lab_listen_new(edge_lab_model* model, int rate) {
  return guarded<edge_lab_listener*>(nullptr, [&] {
    need(model != nullptr, "an argument is NULL");
    const auto& audio = model->open->bundle.audio;
    const uint32_t own = audio ? audio->sample_rate : kLeastRate;  // without audio the recognizer says what is wrong
    return new edge_lab_listener(model->open, rate == 0 ? own : checked_rate(rate));
  });
}

void edge_lab_listen_free(edge_lab_listener* listener) { delete listener; }

int64_t edge_lab_listen_push(edge_lab_listener* listener, const float* samples, size_t count) {
  return guarded<int64_t>(-1, [&] {
    need(listener != nullptr && (samples != nullptr || count == 0), "an argument is NULL");
    need(std::all_of(samples, samples + count, [](float v) { return std::isfinite(v); }), "a sample is no number");
    if (const float peak = loudest(samples, count); peak > kLoudest) too_loud("the sound", peak);
    listener->resampler.push(samples, count, listener->resampled);
    return heard(listener);
  });
}

int64_t edge_lab_listen_push_int16(edge_lab_listener* listener, const int16_t* samples, size_t count) {
  return guarded<int64_t>(-1, [&] {
    need(listener != nullptr && (samples != nullptr || count == 0), "an argument is NULL");
    std::vector<float> values(count);
    std::transform(samples, samples + count, values.begin(), [](int16_t v) { return static_cast<float>(v) / 32768.0f; });
    listener->resampler.push(values.data(), count, listener->resampled);
    return heard(listener);
  });
}

int64_t edge_lab_listen_finish(edge_lab_listener* listener) {
  return guarded<int64_t>(-1, [&] {
    need(listener != nullptr, "an argument is NULL");
    listener->resampler.finish(listener->resampled);
    return heard(listener);
  });
}

int edge_lab_listen_next(edge_lab_listener* listener, edge_lab_word* word) {
  return guarded(-1, [&] {
    need(listener != nullptr && word != nullptr, "an argument is NULL");
    if (listener->words.empty()) return 0;
    const Word& next = listener->words.front();
    const std::string& label = listener->open->bundle.label_names[next.index];
    *word = {static_cast<int64_t>(next.index), label.c_str(), next.probability, next.seconds};
    listener->words.pop_front();
    return 1;
  });
}

int edge_lab_listen_effort(const edge_lab_listener* listener, int64_t* windows, int64_t* calls) {
  return guarded(-1, [&] {
    need(listener != nullptr && windows != nullptr && calls != nullptr, "an argument is NULL");
    *windows = listener->recognizer.windows(), *calls = listener->recognizer.calls();
    return 0;
  });
}

int edge_lab_sha256_file(const char* path, char* hex) {
  return guarded(-1, [&] {
    need(path != nullptr && hex != nullptr, "an argument is NULL");
    std::memcpy(hex, sha256_of(path).c_str(), 65);
    return 0;
  });
}
