#include "model.h"

#include <stddef.h>

_Alignas(EL_ARENA_ALIGN) static uint8_t arena[EL_ARENA_SIZE + 1u]; /* + 1: a model may need none */
_Alignas(8) int8_t el_input[EL_INPUT_SIZE];
_Alignas(8) int8_t el_output[EL_OUTPUT_SIZE];

/* CRC-32 of zlib, four bits at a time. */
static uint32_t crc32(uint32_t crc, const void *bytes, size_t count) {
  static const uint32_t table[16] = {
      0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u, 0x4db26158u, 0x5005713cu,
      0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu, 0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu};
  const uint8_t *from = bytes;
  crc = ~crc;
  for (size_t i = 0; i < count; i++) {
    crc ^= from[i];
    crc = crc >> 4 ^ table[crc & 15u];
    crc = crc >> 4 ^ table[crc & 15u];
  }
  return ~crc;
}

int el_weights_intact(void) {
  uint32_t crc = 0u;
#define ADD(array) crc = crc32(crc, array, sizeof array);
  EL_WEIGHTS(ADD)
#undef ADD
  return crc == EL_WEIGHTS_CRC32;
}

void el_model_run(void) { el_infer(EL_ARENA_SIZE > 0u ? arena : NULL, el_input, el_output); }

uint32_t el_best(const int8_t *outputs) {
  uint32_t best = 0u;
  for (uint32_t i = 1u; i < EL_OUTPUT_SIZE; i++)
    if (outputs[i] > outputs[best]) best = i;
  return best;
}
