// A bundle: a folder with a model and everything needed to run it (schema/bundle.schema.json).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "files.h"

namespace edge_lab {

constexpr int kSchemaVersion = 3;  // the newest that this reader understands

enum class DType { kFloat32, kFloat64, kInt8, kInt16, kInt32, kInt64, kUint8, kBool };
enum class Filter { kBilinear, kBicubic };
enum class Color { kRgb, kBgr, kL };

size_t item_size(DType dtype);
const char* name_of(DType dtype);

struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  DType dtype = DType::kFloat32;
  size_t items() const;  // cannot overflow: shapes are limited when they are read
  size_t bytes() const { return items() * item_size(dtype); }
};

// From an image to the input tensor; edge_lab/bundle/spec.py has the exact arithmetic.
struct Recipe {
  int resize = 0;
  int crop_h = 0, crop_w = 0;
  std::vector<float> mean, std;
  float scale = 0;
  Filter filter = Filter::kBilinear;
  Color color = Color::kRgb;
  int channels() const { return color == Color::kL ? 1 : 3; }
};

// How a stream is searched for words; edge_lab/signals/recognize.py has the exact steps.
struct Listen {
  size_t hop = 1600, smooth = 4;
  double threshold = 0.7;
  int64_t quiet = 8000;
  double gate_db = -50;
  std::string background;  // "": no label says "no word"
};

// What a model hears.
struct Audio {
  uint32_t sample_rate = 16000;
  size_t samples = 16000;
  bool features = false;  // it takes a log-mel map, which only a microcontroller's firmware computes
  Listen listen;
};

struct FileEntry {
  std::string sha256;
  uint64_t bytes = 0;
};

struct GoldenCase {
  std::optional<std::string> input;  // encoded image or wav
  std::string tensor;
  std::vector<std::string> outputs;
  std::vector<double> atols;  // one per output
};

// How the program was compared with the PyTorch model that it came from, when it was written.
struct Parity {
  struct Output {
    std::string name;
    double sqnr_db, limit_db;
  };
  std::vector<Output> outputs;
  bool allowed = false;  // it differs by more than its limit, and somebody asked for it nevertheless
};

// bundle.json as data; nothing on disk has been looked at.
struct Manifest {
  int schema_version = 0;
  std::string target, model, task, weights;
  TensorSpec input;
  std::optional<Recipe> recipe;
  std::optional<Audio> audio;
  bool softmax = true;
  int top_k = 5;
  std::string format, backend, package, made_with, min_version;
  std::optional<double> delegated;
  std::string scheme, program;
  std::optional<std::string> labels;
  std::vector<TensorSpec> outputs;
  std::vector<GoldenCase> golden;
  std::optional<Parity> parity;
  std::map<std::string, FileEntry> files;
  std::map<std::string, double> metrics;  // the numbers among them
};

// Throws Error if the text is no manifest, breaks the schema, or is of a newer schema. `where` names it in messages.
Manifest parse_manifest(std::string_view text, const std::string& where);

// A preprocess object by itself, as in bundle.json.
Recipe parse_recipe(std::string_view text);

struct Bundle : Manifest {
  fs::path path;
  std::vector<std::string> label_names;
  std::string name() const;  // model/kind, such as efficientnet_lite0/xnnpack-int8
  fs::path file(const std::string& inside) const { return path / inside; }
  // Raw values of a golden file whose size must be that of `spec`.
  std::vector<uint8_t> tensor(const std::string& file, const TensorSpec& spec) const;
};

// A sentence about a program that differs from its PyTorch model with somebody's permission; nullopt: it does not.
std::optional<std::string> allowed_difference(const Manifest& manifest);

// The same on standard error, in one line.
void warn_of_difference(const Manifest& manifest);

// Reads, checks for this runtime and version, and (if `verify`) compares every checksum.
Bundle load_bundle(const fs::path& path, const std::string& runtime_version, bool verify = true);

// One sentence for the first file that is missing, of another size or hash; nullopt if all is well.
std::optional<std::string> damage(const Bundle& bundle);

// Negative, zero or positive, as Python packaging orders releases: 1.10 after 1.9, 1.6.0a0 before 1.6.0.
int compare_versions(const std::string& a, const std::string& b);

}  // namespace edge_lab
