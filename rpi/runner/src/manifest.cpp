// bundle.json to Manifest. The only file that knows the JSON library.
#include <cmath>
#include <nlohmann/json.hpp>

#include "bundle.h"
#include "error.h"

namespace edge_lab {
namespace {

using nlohmann::json;

constexpr const char* kAgain = "make the bundle again with edge_lab.to(model, target), or copy the whole folder again.";
constexpr size_t kMostItems = size_t{1} << 28;  // 1 GiB of floats: more is a mistake or an attack
constexpr size_t kMostEntries = 10000;
constexpr int64_t kMostSamples = int64_t{1} << 24;  // of one window

// One value and the way to it, so that a message can name the spot.
class Node {
 public:
  Node(const json* value, std::string spot, const std::string* where)
      : value_(value), spot_(std::move(spot)), where_(where) {}

  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(*where_ + " does not fit the bundle schema at '" + (spot_.empty() ? "top level" : spot_) + "'.",
                why + ".", kAgain);
  }

  bool has(const char* key) const { return is_object().value_->contains(key); }
  bool null() const { return value_->is_null(); }

  Node at(const char* key) const {
    if (!has(key)) refuse(std::string("'") + key + "' is missing");
    return Node(&(*value_)[key], spot_.empty() ? key : spot_ + "/" + key, where_);
  }

  std::vector<Node> items(size_t most) const {
    if (!value_->is_array()) refuse("a list is needed");
    if (value_->size() > most) refuse("the list has over " + std::to_string(most) + " entries");
    std::vector<Node> found;
    for (size_t i = 0; i < value_->size(); ++i) {
      found.emplace_back(&(*value_)[i], spot_ + "/" + std::to_string(i), where_);
    }
    return found;
  }

  std::vector<std::pair<std::string, Node>> members() const {
    is_object();
    if (value_->size() > kMostEntries) refuse("it has over " + std::to_string(kMostEntries) + " entries");
    std::vector<std::pair<std::string, Node>> found;
    for (const auto& [key, value] : value_->items()) found.emplace_back(key, Node(&value, spot_ + "/" + key, where_));
    return found;
  }

  const std::string& text() const {
    if (!value_->is_string()) refuse("a text is needed");
    return value_->get_ref<const std::string&>();
  }

  std::string file() const {
    if (!is_inside(text())) refuse("'" + text() + "' is no path inside the bundle");
    return text();
  }

  bool flag() const {
    if (!value_->is_boolean()) refuse("true or false is needed");
    return value_->get<bool>();
  }

  bool is_number() const { return value_->is_number(); }

  double number() const {
    if (!value_->is_number()) refuse("a number is needed");
    return value_->get<double>();
  }

  float real() const {  // as numpy: the nearest float32 of the double that the text says
    const auto found = static_cast<float>(number());
    if (!std::isfinite(found)) refuse("the number is too large for float32");
    return found;
  }

  int64_t integer(int64_t least, int64_t most) const {
    if (!value_->is_number_integer()) refuse("an integer is needed");
    const bool huge = value_->is_number_unsigned() && value_->get<uint64_t>() > uint64_t{INT64_MAX};
    const int64_t found = huge ? INT64_MAX : value_->get<int64_t>();
    if (huge || found < least || found > most) {
      refuse("the number must be from " + std::to_string(least) + " to " + std::to_string(most));
    }
    return found;
  }

  template <class T>
  T one_of(std::initializer_list<std::pair<const char*, T>> choices) const {
    for (const auto& [name, value] : choices) {
      if (text() == name) return value;
    }
    refuse("'" + text() + "' is not known to this runner");
  }

 private:
  const Node& is_object() const {
    if (!value_->is_object()) refuse("an object is needed");
    return *this;
  }

  const json* value_;
  std::string spot_;
  const std::string* where_;
};

TensorSpec tensor(const Node& node) {
  TensorSpec found;
  found.name = node.at("name").text();
  found.dtype = node.at("dtype").one_of<DType>({{"float32", DType::kFloat32},
                                                {"float64", DType::kFloat64},
                                                {"int8", DType::kInt8},
                                                {"int16", DType::kInt16},
                                                {"int32", DType::kInt32},
                                                {"int64", DType::kInt64},
                                                {"uint8", DType::kUint8},
                                                {"bool", DType::kBool}});
  size_t items = 1;
  for (const Node& dimension : node.at("shape").items(8)) {
    const auto size = static_cast<size_t>(dimension.integer(0, int64_t{1} << 31));
    if (size != 0 && items > kMostItems / size) dimension.refuse("the tensor has over 2^28 values");
    items *= size;
    found.shape.push_back(static_cast<int64_t>(size));
  }
  return found;
}

Recipe recipe(const Node& node) {
  Recipe found;
  found.resize = static_cast<int>(node.at("resize").integer(1, 1 << 16));
  const auto crop = node.at("crop").items(2);
  if (crop.size() != 2) node.at("crop").refuse("height and width are needed");
  found.crop_h = static_cast<int>(crop[0].integer(1, 1 << 16));
  found.crop_w = static_cast<int>(crop[1].integer(1, 1 << 16));
  for (const Node& value : node.at("mean").items(3)) found.mean.push_back(value.real());
  for (const Node& value : node.at("std").items(3)) found.std.push_back(value.real());
  found.scale = node.at("scale").real();
  found.filter =
      node.at("interpolation").one_of<Filter>({{"bilinear", Filter::kBilinear}, {"bicubic", Filter::kBicubic}});
  found.color = node.at("color").one_of<Color>({{"RGB", Color::kRgb}, {"BGR", Color::kBgr}, {"L", Color::kL}});
  const auto channels = static_cast<size_t>(found.channels());
  if (found.mean.size() != channels || found.std.size() != channels) node.refuse("one mean and std per channel");
  for (const float value : found.std) {
    if (value == 0) node.at("std").refuse("std divides and must not be 0");
  }
  if (found.resize < std::max(found.crop_h, found.crop_w)) node.refuse("resize is smaller than crop");
  return found;
}

Listen listen(const Node& node) {
  Listen found;
  found.hop = static_cast<size_t>(node.at("hop").integer(1, kMostSamples));
  found.smooth = static_cast<size_t>(node.at("smooth").integer(1, kMostEntries));
  found.threshold = node.at("threshold").number();
  if (!(found.threshold >= 0 && found.threshold <= 1)) node.at("threshold").refuse("a probability is from 0 to 1");
  found.quiet = node.at("quiet").integer(0, int64_t{1} << 40);
  found.gate_db = node.at("gate_db").number();
  if (!(found.gate_db <= 0) || std::isinf(found.gate_db)) node.at("gate_db").refuse("a level is 0 dB at most");
  found.background = node.at("background").text();
  return found;
}

Audio audio(const Node& node, const TensorSpec& input) {
  Audio found;
  found.sample_rate = static_cast<uint32_t>(node.at("sample_rate").integer(4000, 192000));
  found.samples = static_cast<size_t>(node.at("samples").integer(1, kMostSamples));
  found.features = !node.at("features").null();
  found.listen = listen(node.at("listen"));
  const std::vector<int64_t> waveform{1, static_cast<int64_t>(found.samples)};
  if (!found.features && (input.shape != waveform || input.dtype != DType::kFloat32)) {
    node.refuse("a model of sound takes float32 of 1 x samples, the input is something else");
  }
  return found;
}

double tolerance(const Node& node) {
  const double found = node.number();
  if (!(found > 0)) node.refuse("a tolerance above 0 is needed");
  return found;
}

GoldenCase golden(const Node& node, size_t outputs) {
  GoldenCase found;
  if (!node.at("input").null()) found.input = node.at("input").file();
  found.tensor = node.at("tensor").file();
  for (const Node& file : node.at("outputs").items(kMostEntries)) found.outputs.push_back(file.file());
  if (found.outputs.size() != outputs) node.refuse("it has another number of outputs than the program");
  found.atols.assign(outputs, tolerance(node.at("atol")));
  if (node.has("atols")) {
    found.atols.clear();
    for (const Node& one : node.at("atols").items(kMostEntries)) found.atols.push_back(tolerance(one));
    if (found.atols.size() != outputs) node.at("atols").refuse("one tolerance per output is needed");
  }
  return found;
}

Parity parity(const Node& node) {
  Parity found;
  found.allowed = node.at("allowed").flag();
  for (const Node& one : node.at("outputs").items(kMostEntries)) {
    found.outputs.push_back({one.at("name").text(), one.at("sqnr_db").number(), one.at("limit_db").number()});
  }
  return found;
}

FileEntry file_entry(const Node& node) {
  FileEntry found{node.at("sha256").text(), static_cast<uint64_t>(node.at("bytes").integer(0, INT64_MAX))};
  if (found.sha256.size() != 64 || found.sha256.find_first_not_of("0123456789abcdef") != std::string::npos) {
    node.at("sha256").refuse("64 hex digits are needed");
  }
  return found;
}

void read_spec(const Node& spec, Manifest& into) {
  into.model = spec.at("name").text();
  into.task = spec.at("task").text();
  spec.at("task").one_of<int>({{"classify", 0}, {"detect", 0}, {"segment", 0}, {"keyword", 0}, {"tensor", 0}});
  into.weights = spec.at("weights").text();
  into.input = tensor(spec.at("input"));
  if (!spec.at("preprocess").null()) {
    into.recipe = recipe(spec.at("preprocess"));
    const Recipe& r = *into.recipe;
    if (into.input.shape != std::vector<int64_t>{1, r.channels(), r.crop_h, r.crop_w} ||
        into.input.dtype != DType::kFloat32) {
      spec.at("input").refuse("preprocess gives float32 of 1 x channels x crop, the input is something else");
    }
  }
  if (spec.has("audio") && !spec.at("audio").null()) {
    if (into.recipe) spec.at("audio").refuse("the model takes pictures");
    into.audio = audio(spec.at("audio"), into.input);
  }
  into.softmax = spec.at("postprocess").at("softmax").flag();
  into.top_k = static_cast<int>(spec.at("postprocess").at("top_k").integer(1, 1 << 20));
}

void read_runtime(const Node& runtime, Manifest& into) {
  into.format = runtime.at("format").text();
  into.backend = runtime.at("backend").text();
  into.package = runtime.at("package").text();
  into.made_with = runtime.at("made_with").text();
  into.min_version = runtime.at("min_version").text();
  if (runtime.has("delegated") && !runtime.at("delegated").null()) {
    into.delegated = runtime.at("delegated").number();
    if (!(*into.delegated >= 0 && *into.delegated <= 1)) runtime.at("delegated").refuse("a share is from 0 to 1");
  }
}

// Every file that is named must be among the checksums, or it could be swapped unnoticed.
void refuse_unlisted(const Node& top, const Manifest& found) {
  std::vector<std::string> named{found.program};
  if (found.labels) named.push_back(*found.labels);
  for (const GoldenCase& one : found.golden) {
    named.push_back(one.tensor);
    if (one.input) named.push_back(*one.input);
    named.insert(named.end(), one.outputs.begin(), one.outputs.end());
  }
  for (const std::string& name : named) {
    if (!found.files.count(name)) top.refuse("'" + name + "' has no checksum in 'files'");
  }
}

json parsed(std::string_view text, const std::string& where) {
  json document = json::parse(text.begin(), text.end(), nullptr, false);
  if (document.is_discarded() || !document.is_object()) {
    throw Error(where + " can't be read.", "it is not a JSON object.", kAgain);
  }
  return document;
}

}  // namespace

Manifest parse_manifest(std::string_view text, const std::string& where) {
  const json document = parsed(text, where);
  const Node top(&document, "", &where);
  const int64_t version = top.at("schema_version").integer(1, INT64_MAX);
  if (version > kSchemaVersion) {
    throw Error(where + " has schema version " + std::to_string(version) + "; this runner reads up to " +
                    std::to_string(kSchemaVersion) + ".",
                "it was made by a newer edge_lab.", "build the runner of that edge_lab, or export the bundle again.");
  }
  Manifest found;
  found.schema_version = static_cast<int>(version);
  found.target = top.at("target").text();
  read_runtime(top.at("runtime"), found);
  found.program = top.at("program").file();
  if (found.format != "pte") return found;  // another engine's bundle: refused by its reader, with that reason
  read_spec(top.at("spec"), found);
  found.scheme = top.at("quantization").at("scheme").text();
  if (top.has("labels") && !top.at("labels").null()) found.labels = top.at("labels").file();
  for (const Node& node : top.at("outputs").items(64)) found.outputs.push_back(tensor(node));
  if (found.outputs.empty()) top.at("outputs").refuse("at least one output is needed");
  for (const Node& node : top.at("golden").items(kMostEntries)) {
    found.golden.push_back(golden(node, found.outputs.size()));
  }
  if (top.has("parity") && !top.at("parity").null()) found.parity = parity(top.at("parity"));
  for (const auto& [name, node] : top.at("files").members()) {
    if (!is_inside(name)) top.at("files").refuse("'" + name + "' is no path inside the bundle");
    found.files[name] = file_entry(node);
  }
  for (const auto& [name, node] : top.at("metrics").members()) {
    if (node.is_number()) found.metrics[name] = node.number();
  }
  refuse_unlisted(top, found);
  return found;
}

Recipe parse_recipe(std::string_view text) {
  const std::string where = "the preprocess object";
  const json document = parsed(text, where);
  return recipe(Node(&document, "", &where));
}

}  // namespace edge_lab
