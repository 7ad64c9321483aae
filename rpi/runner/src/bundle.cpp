#include "bundle.h"

#include <algorithm>
#include <cstdio>

#include "error.h"

namespace edge_lab {
namespace {

constexpr uint64_t kMostManifest = 16 << 20;
constexpr const char* kAgain = "make the bundle again with edge_lab.to(model, target), or copy the whole folder again.";

// Lines end at "\n" and nowhere else, and lose "\r" at their ends; the last may lack its "\n".
std::vector<std::string> lines_of(const fs::path& path) {
  const auto bytes = read_file(path, kMostManifest);
  std::vector<std::string> lines;
  for (auto from = bytes.begin(); from != bytes.end();) {
    const auto end = std::find(from, bytes.end(), uint8_t{'\n'});
    lines.emplace_back(from, end);
    while (!lines.back().empty() && lines.back().back() == '\r') lines.back().pop_back();
    from = end == bytes.end() ? end : end + 1;
  }
  return lines;
}

// Release numbers, and whether letters follow them (a pre-release; "+local" and "post" do not count as earlier).
std::pair<std::vector<long>, bool> release(const std::string& version) {
  std::vector<long> numbers;
  size_t i = 0;
  while (i < version.size() && version[i] >= '0' && version[i] <= '9') {
    long value = 0;
    for (; i < version.size() && version[i] >= '0' && version[i] <= '9'; ++i) {
      value = std::min(value * 10 + (version[i] - '0'), 1000000000L);
    }
    numbers.push_back(value);
    if (i < version.size() && version[i] == '.') ++i;
  }
  while (!numbers.empty() && numbers.back() == 0) numbers.pop_back();
  const std::string tail = version.substr(i);
  const bool early = !tail.empty() && tail[0] != '+' && tail.compare(0, 4, "post") != 0;
  return {numbers, early};
}

void refuse_other_runtimes(const Bundle& bundle, const std::string& version) {
  const std::string place = "bundle " + bundle.path.string();
  if (bundle.format == "c" || (bundle.audio && bundle.audio->features)) {
    throw Error(place + " is for a microcontroller.",
                bundle.format == "c" ? "it holds C sources, which become part of a firmware."
                                     : "its program takes log-mel features, which the firmware computes from the sound.",
                "use a bundle of the same model for a target such as pi-xnnpack-fp32.");
  }
  if (bundle.format != "pte") {
    throw Error(place + " is for " + bundle.package + " (" + bundle.format + ").",
                "this runner runs ExecuTorch programs (pte) only.",
                "export it for a target such as pi-xnnpack-int8, or run it with edge-lab in Python.");
  }
  if (compare_versions(version, bundle.min_version) < 0) {
    throw Error(place + " needs executorch " + bundle.min_version + " or newer; this runner has " + version + ".",
                "programs run on the version that made them or a newer one, not on an older one.",
                "build the runner against executorch " + bundle.min_version + ", or export the bundle again.");
  }
}

}  // namespace

size_t item_size(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
    case DType::kInt64:
      return 8;
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
    case DType::kInt16:
      return 2;
    default:
      return 1;
  }
}

const char* name_of(DType dtype) {
  constexpr const char* kNames[] = {"float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"};
  return kNames[static_cast<int>(dtype)];
}

size_t TensorSpec::items() const {
  size_t count = 1;
  for (const int64_t size : shape) count *= static_cast<size_t>(size);
  return count;
}

std::string Bundle::name() const {
  const fs::path whole = fs::absolute(path).lexically_normal();
  const fs::path folder = whole.filename().empty() ? whole.parent_path() : whole;  // "a/b/" is "a/b"
  return folder.parent_path().filename().string() + "/" + folder.filename().string();
}

std::vector<uint8_t> Bundle::tensor(const std::string& inside, const TensorSpec& spec) const {
  auto bytes = read_file(file(inside), spec.bytes());
  if (bytes.size() != spec.bytes()) {
    throw Error(file(inside).string() + " has " + std::to_string(bytes.size()) + " bytes instead of " +
                    std::to_string(spec.bytes()) + ".",
                "that is not the size of tensor '" + spec.name + "' in bundle.json.", kAgain);
  }
  return bytes;
}

std::optional<std::string> damage(const Bundle& bundle) {
  for (const auto& [name, entry] : bundle.files) {
    std::error_code none;
    const fs::path file = bundle.file(name);
    if (!fs::exists(file, none)) return name + " is missing";
    if (!fs::is_regular_file(file, none)) return name + " is no regular file";
    const uint64_t size = fs::file_size(file, none);
    if (none || size != entry.bytes) {
      return name + " has " + std::to_string(size) + " bytes instead of " + std::to_string(entry.bytes);
    }
    if (sha256_of(file) != entry.sha256) return name + " has another SHA-256 than bundle.json says";
  }
  return std::nullopt;
}

std::optional<std::string> allowed_difference(const Manifest& manifest) {
  if (!manifest.parity || !manifest.parity->allowed) return std::nullopt;
  const auto& outputs = manifest.parity->outputs;
  const auto worst = std::min_element(outputs.begin(), outputs.end(), [](const auto& a, const auto& b) {
    return a.sqnr_db - a.limit_db < b.sqnr_db - b.limit_db;
  });
  if (worst == outputs.end()) return "this program differs from its PyTorch model, allowed when it was written";
  char figures[80];
  std::snprintf(figures, sizeof figures, "%.1f dB, limit %.1f dB", worst->sqnr_db, worst->limit_db);
  return "this program differs from its PyTorch model: " + std::string(figures) + " at output '" + worst->name +
         "', allowed when it was written";
}

void warn_of_difference(const Manifest& manifest) {
  if (const auto words = allowed_difference(manifest)) std::fprintf(stderr, "edge-lab-runner: warning: %s\n", words->c_str());
}

Bundle load_bundle(const fs::path& path, const std::string& runtime_version, bool verify) {
  const fs::path manifest = path / "bundle.json";
  std::error_code none;
  if (!fs::is_regular_file(manifest, none)) {
    throw Error("no bundle at " + path.string() + ".",
                std::string("bundle.json is missing") + (fs::is_directory(path, none) ? "." : ", and so is the folder."),
                "write one with `edge-lab export` or edge_lab.to(model, target), or check the path.");
  }
  const auto text = read_file(manifest, kMostManifest);
  Bundle bundle;
  static_cast<Manifest&>(bundle) =
      parse_manifest({reinterpret_cast<const char*>(text.data()), text.size()}, manifest.string());
  bundle.path = path;
  refuse_other_runtimes(bundle, runtime_version);
  if (verify) {
    if (const auto problem = damage(bundle)) {
      throw Error("bundle " + path.string() + " is damaged: " + *problem + ".",
                  "the file was changed or cut off after the bundle was written.", kAgain);
    }
  }
  if (bundle.labels) bundle.label_names = lines_of(bundle.file(*bundle.labels));
  return bundle;
}

int compare_versions(const std::string& a, const std::string& b) {
  const auto [left, left_early] = release(a);
  const auto [right, right_early] = release(b);
  if (left != right) return left < right ? -1 : 1;
  return int{right_early} - int{left_early};
}

}  // namespace edge_lab
