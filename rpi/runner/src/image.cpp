#include "image.h"

#include <cstring>
#include <utility>

#include "error.h"
#include "signature.h"

namespace edge_lab {
namespace {

// Whole numbers of a TIFF block in its byte order; 0 outside of it.
struct Tiff {
  const uint8_t* data;
  size_t bytes;
  bool big;

  uint32_t number(size_t at, int width) const {
    if (at > bytes || bytes - at < static_cast<size_t>(width)) return 0;
    uint32_t value = 0;
    for (int i = 0; i < width; ++i) value = value << 8 | data[at + static_cast<size_t>(big ? i : width - 1 - i)];
    return value;
  }
};

}  // namespace

void bad_image(const std::string& name, const std::string& why) {
  throw Error(name + " could not be read as an image.", why + ".",
              "open it in an image viewer; save it again as JPEG or PNG, or leave it out.");
}

void check_pixels(uint64_t width, uint64_t height, uint64_t most, const std::string& name) {
  if (width == 0 || height == 0 || width > INT32_MAX || height > INT32_MAX) bad_image(name, "its size is unusable");
  if (width > most / height) {
    throw Error(name + " is too large to be read.",
                "it has " + std::to_string(width) + " x " + std::to_string(height) + " pixels; every reader stops at " +
                    std::to_string(most) + ".",
                "make it smaller first.");
  }
}

int exif_orientation(const uint8_t* data, size_t bytes) {
  constexpr uint32_t kOrientation = 0x0112;
  while (bytes >= 6 && std::memcmp(data, "Exif\0", 6) == 0) data += 6, bytes -= 6;
  if (bytes < 8) return 0;
  const bool big = std::memcmp(data, "MM", 2) == 0;
  if (!big && std::memcmp(data, "II", 2) != 0) return 0;
  const Tiff tiff{data, bytes, big};
  if (tiff.number(2, 2) != 42) return 0;
  const size_t first = tiff.number(4, 4);
  const uint32_t entries = tiff.number(first, 2);
  for (uint32_t i = 0; i < entries; ++i) {
    const size_t at = first + 2 + size_t{12} * i;
    if (at + 12 > bytes) return 0;
    if (tiff.number(at, 2) != kOrientation) continue;
    const uint32_t type = tiff.number(at + 2, 2);
    const int width = type == 3 ? 2 : type == 4 ? 4 : 0;  // SHORT or LONG
    if (width == 0 || tiff.number(at + 4, 4) != 1) return 1;
    const uint32_t value = tiff.number(at + 8, width);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 0;
}

int xmp_orientation(const std::string& xmp) {
  const std::string tag = "tiff:Orientation";
  for (size_t at = xmp.find(tag); at != std::string::npos; at = xmp.find(tag, at + 1)) {
    size_t digit = at + tag.size();
    if (xmp.compare(digit, 2, "=\"") == 0) {
      digit += 2;
    } else if (xmp.compare(digit, 1, ">") == 0) {
      digit += 1;
    } else {
      continue;
    }
    if (digit >= xmp.size() || xmp[digit] < '0' || xmp[digit] > '9') continue;
    const int value = xmp[digit] - '0';
    return value >= 1 && value <= 8 ? value : 1;
  }
  return 0;
}

std::vector<uint8_t> unhexed_profile(const std::string& text) {
  size_t at = 0;
  for (int line = 0; line < 3; ++line) {
    at = text.find('\n', at);
    if (at == std::string::npos) return {};
    ++at;
  }
  std::vector<uint8_t> bytes;
  int half = -1;
  for (; at < text.size(); ++at) {
    const char letter = text[at];
    const int digit = letter >= '0' && letter <= '9'   ? letter - '0'
                      : letter >= 'a' && letter <= 'f' ? letter - 'a' + 10
                      : letter >= 'A' && letter <= 'F' ? letter - 'A' + 10
                                                       : -1;
    if (digit < 0 && half < 0 && std::strchr(" \t\n\r\f\v", letter) != nullptr) continue;
    if (digit < 0) return {};
    if (half < 0) {
      half = digit;
    } else {
      bytes.push_back(static_cast<uint8_t>(half << 4 | digit)), half = -1;
    }
  }
  return half < 0 ? bytes : std::vector<uint8_t>{};
}

// 2 mirrored, 3 upside down, 4 both, 5-8 the same with rows and columns swapped.
Image upright(Image image, int orientation) {
  if (orientation < 2 || orientation > 8) return image;
  const bool swap = orientation >= 5;
  const bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Image turned{swap ? image.height : image.width, swap ? image.width : image.height, {}};
  turned.rgb.resize(image.rgb.size());
  uint8_t* to = turned.rgb.data();
  for (int y = 0; y < turned.height; ++y) {
    for (int x = 0; x < turned.width; ++x, to += 3) {
      int from_x = swap ? y : x, from_y = swap ? x : y;
      if (flip_x) from_x = image.width - 1 - from_x;
      if (flip_y) from_y = image.height - 1 - from_y;
      std::memcpy(to, &image.rgb[3 * (size_t(from_y) * size_t(image.width) + size_t(from_x))], 3);
    }
  }
  return turned;
}

Image decode_image(const std::vector<uint8_t>& bytes, const std::string& name, uint64_t most_pixels) {
  constexpr uint8_t kPng[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  constexpr uint8_t kJpeg[] = {0xff, 0xd8, 0xff};
  const auto starts = [&](const uint8_t* magic, size_t size) {
    return bytes.size() >= size && std::memcmp(bytes.data(), magic, size) == 0;
  };
  Decoded found;
  if (starts(kJpeg, sizeof kJpeg)) {
    found = decode_jpeg(bytes, name, most_pixels);
  } else if (starts(kPng, sizeof kPng)) {
    found = decode_png(bytes, name, most_pixels);
  } else {
    const auto kind = not_a_picture(bytes.data(), bytes.size());
    if (!kind) bad_image(name, "it is neither JPEG nor PNG");
    throw Error(name + " could not be read as an image.", kind->why, kind->fix);
  }
  return upright(std::move(found.image), found.orientation);
}

Image read_image(const fs::path& path) { return decode_image(read_file(path, kMostEncoded), path.string()); }

}  // namespace edge_lab
