#include "json.h"

#include <charconv>
#include <cmath>
#include <cstdio>

namespace edge_lab {
namespace {

// Bytes of the UTF-8 character that starts at `at`; 0 if there is none.
size_t utf8_length(const std::string& text, size_t at) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned lead = byte(at);
  const size_t length = lead < 0x80 ? 1 : lead >= 0xc2 && lead < 0xe0 ? 2 : lead >= 0xe0 && lead < 0xf0 ? 3
                        : lead >= 0xf0 && lead < 0xf5                 ? 4
                                                                      : 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return 0;
  }
  const bool overlong = (lead == 0xe0 && byte(at + 1) < 0xa0) || (lead == 0xf0 && byte(at + 1) < 0x90);
  const bool outside = (lead == 0xed && byte(at + 1) >= 0xa0) || (lead == 0xf4 && byte(at + 1) >= 0x90);
  return overlong || outside ? 0 : length;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (size_t i = 0; i < text.size();) {
    const size_t length = utf8_length(text, i);
    const char c = text[i];
    if (length == 0) {
      out += "\\ufffd";  // a file name need not be UTF-8
    } else if (length == 1 && (static_cast<unsigned char>(c) < 0x20 || c == '"' || c == '\\')) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(c));
      out += escaped;
    } else {
      out.append(text, i, length);
    }
    i += length == 0 ? 1 : length;
  }
  return out + "\"";
}

}  // namespace

Json& Json::end() {
  const char last = closers_.back();
  closers_.pop_back();
  if (!first_) text_ += "\n" + std::string(closers_.size(), ' ');
  text_ += last;
  first_ = false;
  return *this;
}

Json& Json::put(const char* key, const std::string& value) { return raw(key, quoted(value)); }

Json& Json::put(const char* key, double value) {
  if (!std::isfinite(value)) return null(key);
  char digits[40];
  return raw(key, std::string(digits, std::to_chars(digits, digits + sizeof digits, value).ptr));
}

Json& Json::open(const char* key, char first, char last) {
  raw(key, std::string(1, first));
  closers_ += last;
  first_ = true;
  return *this;
}

Json& Json::raw(const char* key, const std::string& value) {
  if (!first_) text_ += ",";
  if (!closers_.empty()) text_ += "\n" + std::string(closers_.size(), ' ');
  if (key != nullptr) text_ += quoted(key) + ": ";
  text_ += value;
  first_ = false;
  return *this;
}

}  // namespace edge_lab
