// PNG by libpng. It only unpacks; colours become RGB here, because Pillow's rules are not libpng's.
#include <algorithm>
#include <csetjmp>
#include <cstring>

#include <png.h>

#include "image.h"

namespace edge_lab {
namespace {

// libpng reports by longjmp, which must not pass C++ destructors: everything between is plain data.
struct Reader {
  png_structp png = nullptr;
  png_infop info = nullptr;
  const uint8_t* data = nullptr;
  size_t bytes = 0, at = 0;
  char message[160] = "";
  png_uint_32 width = 0, height = 0;
  int depth = 0, kind = 0;

  ~Reader() { png_destroy_read_struct(&png, &info, nullptr); }
};

void fail(png_structp png, png_const_charp message) {
  auto* reader = static_cast<Reader*>(png_get_error_ptr(png));
  std::strncpy(reader->message, message, sizeof reader->message - 1);
  png_longjmp(png, 1);
}

void silent(png_structp, png_const_charp) {}

void take(png_structp png, png_bytep to, size_t bytes) {
  auto* reader = static_cast<Reader*>(png_get_io_ptr(png));
  if (bytes > reader->bytes - reader->at) png_error(png, "it is cut off");
  std::memcpy(to, reader->data + reader->at, bytes);
  reader->at += bytes;
}

// Whether the file ends inside of its pixels. libpng sees it or not, as its buffers happen to lie.
bool ends_in_pixels(const uint8_t* data, size_t bytes) {
  for (uint64_t at = 8; at + 8 <= bytes;) {
    uint64_t length = 0;
    for (size_t i = 0; i < 4; ++i) length = length << 8 | data[at + i];
    const uint64_t end = at + 12 + length;
    if (end > bytes) return std::memcmp(data + at + 4, "IDAT", 4) == 0;
    at = end;
  }
  return false;
}

bool read_header(Reader& r) {
  r.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &r, fail, silent);
  r.info = r.png != nullptr ? png_create_info_struct(r.png) : nullptr;
  if (r.info == nullptr) return false;
  if (setjmp(png_jmpbuf(r.png))) return false;
  png_set_user_limits(r.png, INT32_MAX, INT32_MAX);  // check_pixels has the last word
  png_set_read_fn(r.png, &r, take);
  png_read_info(r.png, r.info);
  png_get_IHDR(r.png, r.info, &r.width, &r.height, &r.depth, &r.kind, nullptr, nullptr, nullptr);
  return true;
}

// Allocates rows: the size must have been checked.
bool prepare(Reader& r) {
  if (setjmp(png_jmpbuf(r.png))) return false;
  png_set_packing(r.png);      // one value a byte
  png_set_strip_16(r.png);     // the high one
  png_set_strip_alpha(r.png);  // nothing is blended
  png_set_interlace_handling(r.png);
  png_read_update_info(r.png, r.info);
  return true;
}

bool read_rows(Reader& r, png_bytepp rows) {
  if (setjmp(png_jmpbuf(r.png))) return false;
  png_read_image(r.png, rows);
  return true;
}

// What follows the pixels: EXIF may. A file that ends right behind its pixels is whole enough, as for Pillow.
void read_end(Reader& r) {
  if (setjmp(png_jmpbuf(r.png))) return;
  png_read_end(r.png, r.info);
}

int orientation_of(Reader& r) {
  png_bytep exif = nullptr;
  png_uint_32 bytes = 0;
  if (png_get_eXIf_1(r.png, r.info, &bytes, &exif) != 0) {
    if (const int found = exif_orientation(exif, bytes)) return found;
  }
  png_textp texts = nullptr;
  const int count = png_get_text(r.png, r.info, &texts, nullptr);
  for (const char* key : {"Raw profile type exif", "Raw profile type APP1"}) {
    for (int i = count; i-- > 0;) {  // of several the last one counts
      if (std::strcmp(texts[i].key, key) != 0 || texts[i].text == nullptr) continue;
      const auto profile = unhexed_profile(texts[i].text);
      if (const int found = exif_orientation(profile.data(), profile.size())) return found;
      break;
    }
  }
  for (int i = count; i-- > 0;) {
    if (std::strcmp(texts[i].key, "XML:com.adobe.xmp") != 0 || texts[i].text == nullptr) continue;
    if (const int found = xmp_orientation(texts[i].text)) return found;
  }
  return 1;
}

// Values of one byte, grey or places in a palette, to RGB; `to` may begin in front of them in the same memory.
void to_rgb(Reader& r, const uint8_t* from, size_t count, uint8_t* to) {
  if (r.kind == PNG_COLOR_TYPE_PALETTE) {
    png_colorp palette = nullptr;
    int entries = 0;
    png_get_PLTE(r.png, r.info, &palette, &entries);
    for (size_t i = 0; i < count; ++i) {
      const png_color color = from[i] < entries ? palette[from[i]] : png_color{0, 0, 0};
      to[3 * i] = color.red, to[3 * i + 1] = color.green, to[3 * i + 2] = color.blue;
    }
  } else {
    const int stretch = r.depth < 8 ? 255 / ((1 << r.depth) - 1) : 1;
    for (size_t i = 0; i < count; ++i) std::memset(to + 3 * i, from[i] * stretch, 3);
  }
}

}  // namespace

Decoded decode_png(const std::vector<uint8_t>& bytes, const std::string& name, uint64_t most_pixels) {
  Reader r;
  r.data = bytes.data(), r.bytes = bytes.size();
  if (!read_header(r)) bad_image(name, std::string("PNG: ") + r.message);
  check_pixels(r.width, r.height, most_pixels, name);
  if (ends_in_pixels(bytes.data(), bytes.size())) bad_image(name, "PNG: it is cut off");
  if (!prepare(r)) bad_image(name, std::string("PNG: ") + r.message);
  // What is no RGB yet lies in the last third of its place, and grows to the front: there is no second copy.
  const size_t stride = png_get_rowbytes(r.png, r.info), values = stride * r.height;
  Decoded found;
  found.image.rgb.resize(3 * size_t{r.width} * r.height);
  uint8_t* raw = found.image.rgb.data() + (found.image.rgb.size() - values);
  std::vector<png_bytep> rows(r.height);
  for (size_t y = 0; y < r.height; ++y) rows[y] = raw + y * stride;
  if (!read_rows(r, rows.data())) bad_image(name, std::string("PNG: ") + r.message);
  read_end(r);
  found.image.width = static_cast<int>(r.width);
  found.image.height = static_cast<int>(r.height);
  if (values < found.image.rgb.size()) to_rgb(r, raw, values, found.image.rgb.data());
  found.orientation = orientation_of(r);
  return found;
}

}  // namespace edge_lab
