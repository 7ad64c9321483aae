// libFuzzer: any bytes as bundle.json. Whatever is accepted must hold what the rest of the runner relies on.
#include <cstdint>
#include <cstdlib>

#include "bundle.h"
#include "error.h"

using namespace edge_lab;  // NOLINT: a test

static void must(bool good) {
  if (!good) std::abort();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const Manifest found = parse_manifest(text, "fuzz");
    must(is_inside(found.program) && found.program.front() != '/');
    compare_versions(found.min_version, "1.5.1");
    if (found.format != "pte") return 0;
    must(!found.outputs.empty() && found.files.count(found.program) == 1);
    must(found.input.bytes() <= size_t{1} << 31);
    for (const TensorSpec& spec : found.outputs) must(spec.bytes() <= size_t{1} << 31);
    for (const auto& [name, entry] : found.files) must(is_inside(name) && entry.sha256.size() == 64);
    for (const GoldenCase& one : found.golden) {
      must(one.outputs.size() == found.outputs.size() && one.atols.size() == found.outputs.size());
      for (const double atol : one.atols) must(atol > 0);
    }
    allowed_difference(found);
    if (found.audio && !found.audio->features) must(found.input.items() == found.audio->samples);
    if (found.audio) must(found.audio->listen.hop > 0 && found.audio->listen.smooth > 0);
    if (found.recipe) must(found.recipe->resize >= found.recipe->crop_w && !found.recipe->std.empty());
  } catch (const Error&) {
  }
  try {
    const Recipe recipe = parse_recipe(text);
    must(recipe.mean.size() == static_cast<size_t>(recipe.channels()));
  } catch (const Error&) {
  }
  return 0;
}
