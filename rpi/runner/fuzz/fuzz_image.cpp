// libFuzzer: any bytes as a picture or a recording; small ones are preprocessed as well.
#include <cstdint>

#include "error.h"
#include "image.h"
#include "preprocess.h"
#include "wav.h"

using namespace edge_lab;  // NOLINT: a test

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::vector<uint8_t> bytes(data, data + size);
  try {
    const Image image = decode_image(bytes, "fuzz", 1 << 16);
    const Recipe recipe{9, 7, 8, {0, 0, 0}, {1, 1, 1}, 1, Filter::kBicubic, Color::kBgr};
    float x[3 * 7 * 8];
    preprocess(image.rgb.data(), image.height, image.width, recipe, x);
  } catch (const Error&) {
  }
  try {
    decode_wav(bytes, "fuzz");
  } catch (const Error&) {
  }
  return 0;
}
