// JPEG by libjpeg-turbo, which Pillow uses as well: the accurate integer DCT and smooth upsampling are its defaults.
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include <jpeglib.h>

#include <jerror.h>

#include "image.h"

namespace edge_lab {
namespace {

constexpr int kMostScans = 500;  // a small file with thousands of scans would decode for minutes

// libjpeg reports by longjmp, which must not pass C++ destructors: everything between is plain data.
struct Decoder {
  jpeg_decompress_struct info;
  jpeg_error_mgr errors;
  jpeg_progress_mgr progress;
  std::jmp_buf escape;
  char message[JMSG_LENGTH_MAX];
  bool cut_off;
};

Decoder* decoder_of(j_common_ptr info) { return static_cast<Decoder*>(info->client_data); }

void fail(j_common_ptr info) {
  info->err->format_message(info, decoder_of(info)->message);
  std::longjmp(decoder_of(info)->escape, 1);
}

void warn(j_common_ptr info, int level) {
  if (level >= 0) return;
  const int code = info->err->msg_code;
  // Data that stops at the end marker: a file that was cut and closed again.
  const bool closed = code == JWRN_HIT_MARKER && decoder_of(info)->info.unread_marker == JPEG_EOI;
  if (code == JWRN_JPEG_EOF || closed) decoder_of(info)->cut_off = true;
}

void silent(j_common_ptr) {}

void watch(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMostScans) {
    std::snprintf(decoder_of(info)->message, JMSG_LENGTH_MAX, "it has over %d scans", kMostScans);
    std::longjmp(decoder_of(info)->escape, 1);
  }
}

bool read_header(Decoder& d, const uint8_t* data, size_t bytes) {
  d.info.err = jpeg_std_error(&d.errors);
  d.errors.error_exit = fail;
  d.errors.emit_message = warn;
  d.errors.output_message = silent;
  d.info.client_data = &d;
  if (setjmp(d.escape)) return false;
  jpeg_create_decompress(&d.info);
  d.info.client_data = &d;  // creating clears the struct
  d.progress.progress_monitor = watch;
  d.info.progress = &d.progress;
  jpeg_mem_src(&d.info, const_cast<unsigned char*>(data), static_cast<unsigned long>(bytes));
  jpeg_save_markers(&d.info, JPEG_APP0 + 1, 0xffff);
  return jpeg_read_header(&d.info, TRUE) == JPEG_HEADER_OK;
}

// `row` has room for one line of width x 4 bytes.
bool read_rows(Decoder& d, uint8_t* rgb, uint8_t* row) {
  if (setjmp(d.escape)) return false;
  const int channels = d.info.num_components;
  d.info.out_color_space = channels == 1 ? JCS_GRAYSCALE : channels == 3 ? JCS_RGB : JCS_CMYK;
  jpeg_start_decompress(&d.info);
  const size_t width = d.info.output_width;
  while (d.info.output_scanline < d.info.output_height) {
    uint8_t* to = rgb + 3 * width * d.info.output_scanline;
    JSAMPROW line = channels == 3 ? to : row;
    jpeg_read_scanlines(&d.info, &line, 1);
    for (size_t x = 0; channels == 1 && x < width; ++x) std::memset(to + 3 * x, row[x], 3);
    for (size_t x = 0; channels == 4 && x < width; ++x) {
      // Adobe stores inks inverted. As Pillow does it: light that black lets through, less the ink's share of it.
      for (size_t c = 0; c < 3; ++c) {
        const int ink = 255 - row[4 * x + c], light = row[4 * x + 3];
        const int product = ink * light + 128;
        to[3 * x + c] = static_cast<uint8_t>(light - (((product >> 8) + product) >> 8));
      }
    }
  }
  jpeg_finish_decompress(&d.info);
  return !d.cut_off;
}

int orientation_of(const Decoder& d) {
  constexpr char kExif[] = "Exif\0";  // with the literal's own end: two zeros
  constexpr char kXmp[] = "http://ns.adobe.com/xap/1.0/";
  std::vector<uint8_t> exif;
  std::string xmp;
  for (auto* marker = d.info.marker_list; marker != nullptr; marker = marker->next) {
    const auto* data = marker->data;
    const size_t bytes = marker->data_length;
    if (bytes >= sizeof kExif && std::memcmp(data, kExif, sizeof kExif) == 0) {
      exif.insert(exif.end(), data + sizeof kExif, data + bytes);
    } else if (bytes >= sizeof kXmp && std::memcmp(data, kXmp, sizeof kXmp) == 0) {
      xmp.assign(reinterpret_cast<const char*>(data) + sizeof kXmp, bytes - sizeof kXmp);
    }
  }
  const int found = exif_orientation(exif.data(), exif.size());
  return found != 0 ? found : xmp_orientation(xmp);
}

}  // namespace

Decoded decode_jpeg(const std::vector<uint8_t>& bytes, const std::string& name, uint64_t most_pixels) {
  struct Guard {
    Decoder d{};
    ~Guard() { jpeg_destroy_decompress(&d.info); }
  } guard;
  Decoder& d = guard.d;
  if (!read_header(d, bytes.data(), bytes.size())) bad_image(name, std::string("JPEG: ") + d.message);
  const int channels = d.info.num_components;
  if (channels != 1 && channels != 3 && channels != 4) {
    bad_image(name, "a JPEG of " + std::to_string(channels) + " components is not known");
  }
  check_pixels(d.info.image_width, d.info.image_height, most_pixels, name);
  Decoded found;
  found.orientation = orientation_of(d);  // now: the markers go when decoding ends
  found.image.width = static_cast<int>(d.info.image_width);
  found.image.height = static_cast<int>(d.info.image_height);
  found.image.rgb.resize(3 * size_t{d.info.image_width} * d.info.image_height);
  std::vector<uint8_t> row(4 * size_t{d.info.image_width});
  if (!read_rows(d, found.image.rgb.data(), row.data())) {
    bad_image(name, d.cut_off ? "the JPEG is cut off" : std::string("JPEG: ") + d.message);
  }
  return found;
}

}  // namespace edge_lab
