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
  png_set_packing(r.png);  // one value a byte
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
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(texts[i].key, "XML:com.adobe.xmp") != 0 || texts[i].text == nullptr) continue;
    if (const int found = xmp_orientation(texts[i].text)) return found;
  }
  return 1;
}

// One row of unpacked values to RGB. 16-bit values keep their high byte, which comes first. Alpha is dropped.
void to_rgb(Reader& r, const uint8_t* from, uint8_t* to) {
  const bool wide = r.depth == 16;
  const size_t channels = png_get_channels(r.png, r.info), step = channels * (wide ? 2 : 1), width = r.width;
  if (r.kind == PNG_COLOR_TYPE_PALETTE) {
    png_colorp palette = nullptr;
    int entries = 0;
    png_get_PLTE(r.png, r.info, &palette, &entries);
    for (size_t x = 0; x < width; ++x) {
      const png_color color = from[x] < entries ? palette[from[x]] : png_color{0, 0, 0};
      to[3 * x] = color.red, to[3 * x + 1] = color.green, to[3 * x + 2] = color.blue;
    }
  } else if (channels >= 3) {
    for (size_t x = 0; x < width; ++x) {
      for (size_t c = 0; c < 3; ++c) to[3 * x + c] = from[x * step + c * (wide ? 2 : 1)];
    }
  } else {
    const int stretch = r.depth < 8 ? 255 / ((1 << r.depth) - 1) : 1;
    for (size_t x = 0; x < width; ++x) {
      std::memset(to + 3 * x, from[x * step] * stretch, 3);
    }
  }
}

}  // namespace

Decoded decode_png(const std::vector<uint8_t>& bytes, const std::string& name, uint64_t most_pixels) {
  Reader r;
  r.data = bytes.data(), r.bytes = bytes.size();
  if (!read_header(r)) bad_image(name, std::string("PNG: ") + r.message);
  check_pixels(r.width, r.height, most_pixels, name);
  if (!prepare(r)) bad_image(name, std::string("PNG: ") + r.message);
  const size_t stride = png_get_rowbytes(r.png, r.info);
  std::vector<uint8_t> raw(stride * r.height);
  std::vector<png_bytep> rows(r.height);
  for (size_t y = 0; y < r.height; ++y) rows[y] = raw.data() + y * stride;
  if (!read_rows(r, rows.data())) bad_image(name, std::string("PNG: ") + r.message);
  read_end(r);
  Decoded found;
  found.image.width = static_cast<int>(r.width);
  found.image.height = static_cast<int>(r.height);
  found.image.rgb.resize(3 * size_t{r.width} * r.height);
  for (size_t y = 0; y < r.height; ++y) to_rgb(r, rows[y], &found.image.rgb[3 * y * r.width]);
  found.orientation = orientation_of(r);
  return found;
}

}  // namespace edge_lab
