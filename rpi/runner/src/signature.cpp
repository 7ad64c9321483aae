#include "signature.h"

#include <algorithm>
#include <cctype>
#include <string_view>

namespace edge_lab {

const char* const kToWav = "convert it: ffmpeg -i INPUT -ar 16000 -ac 1 OUTPUT.wav (Debian: sudo apt install ffmpeg).";

namespace {

using namespace std::string_view_literals;

constexpr const char* kToPng = "convert it: convert 'INPUT[0]' OUTPUT.png (Debian: sudo apt install imagemagick).";
constexpr const char* kToJpeg = "convert it: heif-convert INPUT OUTPUT.jpg (Debian: sudo apt install libheif-examples).";
constexpr const char* kFrame =
    "take a picture out of it: ffmpeg -i INPUT -frames:v 1 OUTPUT.png (Debian: sudo apt install ffmpeg).";
constexpr const char* kUnpack = "unpack it, and name the file inside.";
constexpr const char* kJxl = "convert it: djxl INPUT OUTPUT.png (Debian: sudo apt install libjxl-tools).";

enum class Family { kPicture, kSound, kVideo, kOther };  // Python tells pictures apart that Pillow can't read

struct Signature {
  size_t place;
  std::string_view mark;
  const char* name;
  Family family;
  const char* fix = "";
};

constexpr Signature kSignatures[] = {
    {0, "\xff\xd8\xff"sv, "a JPEG picture", Family::kPicture},
    {0, "\x89PNG\r\n\x1a\n"sv, "a PNG picture", Family::kPicture},
    {0, "GIF8"sv, "a GIF picture", Family::kPicture, kToPng},
    {8, "WEBP"sv, "a WebP picture", Family::kPicture, kToPng},
    {0, "II*\0"sv, "a TIFF picture", Family::kPicture, kToPng},
    {0, "MM\0*"sv, "a TIFF picture", Family::kPicture, kToPng},
    {0, "BM"sv, "a BMP picture", Family::kPicture, kToPng},
    {0, "8BPS"sv, "a Photoshop picture", Family::kPicture, kToPng},
    {0, "\0\0\0\x0cjP  "sv, "a JPEG 2000 picture", Family::kPicture, kToPng},
    {0, "\xff\x0a"sv, "a JPEG XL picture", Family::kPicture, kJxl},
    {0, "\0\0\0\x0cJXL "sv, "a JPEG XL picture", Family::kPicture, kJxl},
    {8, "WAVE"sv, "a WAV recording", Family::kSound},
    {0, "fLaC"sv, "a FLAC recording", Family::kSound},
    {0, "OggS"sv, "an Ogg recording (Vorbis or Opus)", Family::kSound},
    {0, "ID3"sv, "an MP3 recording", Family::kSound},
    {0, "\xff\xfb"sv, "an MP3 recording", Family::kSound},
    {0, "\xff\xf3"sv, "an MP3 recording", Family::kSound},
    {0, "\xff\xf2"sv, "an MP3 recording", Family::kSound},
    {0, "\xff\xf1"sv, "an AAC recording", Family::kSound},
    {0, "\xff\xf9"sv, "an AAC recording", Family::kSound},
    {0, "#!AMR"sv, "an AMR recording", Family::kSound},
    {0, "FORM"sv, "an AIFF recording", Family::kSound},
    {0, "caff"sv, "a Core Audio recording", Family::kSound},
    {0, ".snd"sv, "an AU recording", Family::kSound},
    {0, "RF64"sv, "a WAV recording of 64 bits", Family::kSound},
    {0, "RIFX"sv, "a WAV recording with its bytes the other way round", Family::kSound},
    {0, "0&\xb2u"sv, "a Windows Media file", Family::kVideo},
    {0, "\x1a" "E\xdf\xa3"sv, "a WebM or Matroska file", Family::kVideo},
    {8, "AVI "sv, "an AVI video", Family::kVideo},
    {0, "version https://git-lfs"sv, "a Git LFS pointer: a note about a file that was not fetched", Family::kOther,
     "git lfs pull, in the folder of the repository."},
    {0, "\x1f\x8b"sv, "a gzip archive", Family::kOther, kUnpack},
    {0, "PK\x03\x04"sv, "a zip archive", Family::kOther, kUnpack},
    {0, "%PDF"sv, "a PDF document", Family::kOther,
     "convert it: pdftoppm -png INPUT OUTPUT (Debian: sudo apt install poppler-utils)."},
    {0, "\x93NUMPY"sv, "a NumPy array", Family::kOther,
     "write its values as they are: np.load(INPUT).tofile('x.bin')."},
};

// By the second word behind "ftyp".
constexpr Signature kBrands[] = {
    {0, "heic heix heim heis hevc hevx mif1 msf1"sv, "a HEIC picture, as iPhones take them", Family::kPicture, kToJpeg},
    {0, "avif avis"sv, "an AVIF picture", Family::kPicture, kToPng},
    {0, "M4A  M4B "sv, "an MPEG-4 recording (m4a)", Family::kSound},
};
constexpr Signature kEmpty = {0, ""sv, "an empty file", Family::kOther, "copy or download it again."};
constexpr Signature kVideo = {0, ""sv, "an MPEG-4 or QuickTime file", Family::kVideo};
constexpr Signature kPage = {
    0, ""sv, "a web page", Family::kOther,
    "download the file itself (on Hugging Face the link with /resolve/, on GitHub the one of the Download button)."};
constexpr Signature kSvg = {0, ""sv, "XML: an SVG drawing, or a page about an error", Family::kPicture,
                            "convert it: rsvg-convert INPUT -o OUTPUT.png (Debian: sudo apt install librsvg2-bin)."};
constexpr Signature kJson = {0, ""sv, "JSON text", Family::kOther, "name the file that it is about."};

bool begins(std::string_view text, std::string_view with) { return text.substr(0, with.size()) == with; }

const Signature* of_text(std::string_view start) {
  if (begins(start, "\xef\xbb\xbf"sv)) start.remove_prefix(3);
  start.remove_prefix(std::min(start.find_first_not_of(" \t\r\n"), start.size()));
  std::string words(start);
  std::transform(words.begin(), words.end(), words.begin(), [](unsigned char c) { return std::tolower(c); });
  if (begins(words, "<!doctype html") || begins(words, "<html")) return &kPage;
  if (begins(words, "<svg") || begins(words, "<?xml")) return &kSvg;
  return begins(words, "{") ? &kJson : nullptr;
}

const Signature* signature_of(std::string_view start) {
  if (start.empty()) return &kEmpty;
  if (start.size() >= 8 && start.substr(4, 4) == "ftyp") {
    const auto brand = start.size() >= 12 ? start.substr(8, 4) : "none"sv;
    for (const Signature& kind : kBrands) {
      const size_t place = kind.mark.find(brand);
      if (place != std::string_view::npos && place % 5 == 0) return &kind;
    }
    return &kVideo;
  }
  for (const Signature& kind : kSignatures) {
    const bool there = start.size() > kind.place && begins(start.substr(kind.place), kind.mark);
    if (there && (kind.place == 0 || begins(start, "RIFF"sv))) return &kind;
  }
  return of_text(start);
}

std::string_view view(const uint8_t* start, size_t bytes) {
  return {reinterpret_cast<const char*>(start), std::min(bytes, kStart)};
}

}  // namespace

std::optional<Kind> not_a_picture(const uint8_t* start, size_t bytes) {
  const Signature* kind = signature_of(view(start, bytes));
  if (kind == nullptr) return std::nullopt;
  const std::string name = std::string("it is ") + kind->name;
  if (kind->family == Family::kSound) return Kind{name + ".", "name a picture."};
  if (kind->family == Family::kVideo) return Kind{name + ".", kFrame};
  if (kind->family == Family::kOther) return Kind{name + ".", kind->fix};
  return Kind{name + ", and JPEG and PNG are read here.", *kind->fix != '\0' ? kind->fix : "copy or download it again."};
}

std::optional<Kind> not_a_recording(const uint8_t* start, size_t bytes) {
  const Signature* kind = signature_of(view(start, bytes));
  if (kind == nullptr || kind->name == "a WAV recording"sv) return std::nullopt;
  const std::string name = std::string("it is ") + kind->name;
  if (kind->family == Family::kSound || kind->family == Family::kVideo) return Kind{name + ", and only WAV is read.", kToWav};
  return Kind{name + ".", kind->family == Family::kOther ? kind->fix : "name a recording."};
}

std::string sound_in_pipe(const uint8_t* start, size_t bytes) {
  const Signature* kind = signature_of(view(start, bytes));
  const bool sound = kind != nullptr && (kind->family == Family::kSound || kind->family == Family::kVideo);
  return sound && start[0] != 0xff ? kind->name : "";
}

}  // namespace edge_lab
