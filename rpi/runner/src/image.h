// Encoded pictures to 8-bit RGB, exactly as edge_lab.signals.image.read_image does it with Pillow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "files.h"

namespace edge_lab {

// 8-bit RGB, rows from top to bottom, no padding.
struct Image {
  int width = 0, height = 0;
  std::vector<uint8_t> rgb;
};

// Pillow refuses larger pictures as decompression bombs.
constexpr uint64_t kMostPixels = 178956970;
constexpr uint64_t kMostEncoded = uint64_t{1} << 30;

// Decodes JPEG (grey, YCbCr, RGB, CMYK) or PNG (every kind), turned upright by its EXIF or XMP orientation
// (edge_lab/signals/exif.py has the rule).
// Alpha is dropped; of 16-bit values the high byte stays. Throws Error: another format, damaged, cut off, too large. `name` is for messages.
Image decode_image(const std::vector<uint8_t>& bytes, const std::string& name, uint64_t most_pixels = kMostPixels);
Image read_image(const fs::path& path);

// Parts of decode_image. `orientation` is 1 to 8 as EXIF numbers them.
struct Decoded {
  Image image;
  int orientation = 1;
};
Decoded decode_jpeg(const std::vector<uint8_t>& bytes, const std::string& name, uint64_t most_pixels);
Decoded decode_png(const std::vector<uint8_t>& bytes, const std::string& name, uint64_t most_pixels);
int exif_orientation(const uint8_t* tiff, size_t bytes);  // 0: none
int xmp_orientation(const std::string& xmp);              // 0: none
// The bytes of an ImageMagick profile: an empty line, its name, its length, hexadecimal. Empty if it is none.
std::vector<uint8_t> unhexed_profile(const std::string& text);
Image upright(Image image, int orientation);
[[noreturn]] void bad_image(const std::string& name, const std::string& why);
void check_pixels(uint64_t width, uint64_t height, uint64_t most, const std::string& name);

}  // namespace edge_lab
