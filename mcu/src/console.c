#include "console.h"

void el_console_write(const char *text);

void el_text(const char *text) { el_console_write(text); }

void el_number(int64_t value) {
  char digits[24];
  char *at = digits + sizeof digits - 1;
  uint64_t rest = value < 0 ? 0u - (uint64_t)value : (uint64_t)value;
  *at = '\0';
  do {
    *--at = (char)('0' + rest % 10u);
    rest /= 10u;
  } while (rest != 0u);
  if (value < 0) *--at = '-';
  el_console_write(at);
}

void el_bytes(const void *bytes, size_t count) {
  static const char digits[] = "0123456789abcdef";
  const uint8_t *from = bytes;
  char text[65];
  while (count > 0u) {
    const size_t part = count < 32u ? count : 32u;
    for (size_t i = 0; i < part; i++) {
      text[2u * i] = digits[from[i] >> 4];
      text[2u * i + 1u] = digits[from[i] & 15u];
    }
    text[2u * part] = '\0';
    el_console_write(text);
    from += part;
    count -= part;
  }
}

void el_hex(uint32_t value) {
  const uint8_t bytes[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value};
  el_text("0x");
  el_bytes(bytes, sizeof bytes);
}

void el_fact(const char *key, int64_t value) {
  el_text(key);
  el_text(" ");
  el_number(value);
  el_text("\n");
}
