// Feeds files to the readers and prints one line each: what sanitizers watch. Needs no ExecuTorch.
//
//   edge_lab_corpus FILE ...      by extension: .json a manifest, .wav a recording, .recipe a preprocess object for
//                                 pictures that follow, else a picture; a folder is a bundle
#include <cstdio>
#include <string>

#include "audio.h"
#include "error.h"
#include "image.h"
#include "json.h"
#include "predict.h"
#include "preprocess.h"
#include "recognizer.h"

namespace {

using namespace edge_lab;  // NOLINT: a test

std::string text_of(const fs::path& path) {
  const auto bytes = read_file(path, 64 << 20);
  return {bytes.begin(), bytes.end()};
}

// As a one-shot input, which silence is not, and as a stream.
std::string heard(const fs::path& path) {
  Audio audio;
  audio.samples = 800;
  audio.listen.hop = 160;
  WavReader wav(path);
  std::vector<float> samples(static_cast<size_t>(wav.count())), out, x(audio.samples);
  wav.read(samples.data(), samples.size());
  Resampler resampler(wav.rate(), audio.sample_rate);
  resampler.push(samples.data(), samples.size(), out);
  resampler.finish(out);
  Recognizer recognizer(audio, {"a", "b"}, [](const float* x) { return std::vector<double>{static_cast<double>(x[0]), 0.1}; });
  recognizer.push(out.data(), out.size());
  hear(path, audio, x.data());
  return std::to_string(samples.size()) + " samples";
}

std::string look(const fs::path& path, Recipe& recipe) {
  if (fs::is_directory(path)) {
    const Bundle bundle = load_bundle(path, "1.5.1");
    for (const GoldenCase& one : bundle.golden) {
      if (one.input) input_of(bundle.file(*one.input), bundle);
      predict(values_of(bundle.tensor(one.outputs[0], bundle.outputs[0]).data(), bundle.outputs[0]), bundle);
    }
    Json json;
    return json.object().all("labels", bundle.label_names).end().text().empty() ? "" : "bundle";
  }
  if (path.extension() == ".json") return parse_manifest(text_of(path), "manifest").format;
  if (path.extension() == ".recipe") return recipe = parse_recipe(text_of(path)), "recipe";
  if (path.extension() == ".wav") return heard(path);
  const Image image = read_image(path);
  std::vector<float> x(static_cast<size_t>(recipe.channels() * recipe.crop_h * recipe.crop_w));
  if (!x.empty()) preprocess(image.rgb.data(), image.height, image.width, recipe, x.data());
  return std::to_string(image.width) + "x" + std::to_string(image.height);
}

}  // namespace

int main(int argc, char** argv) {
  Recipe recipe;
  for (int i = 1; i < argc; ++i) {
    try {
      std::printf("good %s: %s\n", argv[i], look(argv[i], recipe).c_str());
    } catch (const Error& error) {
      std::printf("refused %s: %s\n", argv[i], error.what());
    }
  }
  return 0;
}
