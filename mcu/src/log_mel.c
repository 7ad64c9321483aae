#include "log_mel.h"

#include <string.h>

#define EL_MEL_TABLES
#include "el_mel_tables.h"

enum { HALF = EL_MEL_FFT / 2, HOPS = EL_MEL_WINDOW / EL_MEL_HOP };

typedef struct {
  int32_t re, im;
} Complex;

/* A bin of the transform, and later its power: both take eight bytes, so the power needs no memory of its own. */
static union {
  Complex z;
  uint64_t power;
} bins[HALF];

static int16_t heard[EL_MEL_WINDOW];
static uint32_t hops_heard;

static inline Complex turned(Complex a, int32_t cosine, int32_t sine) {
  const int64_t half = 1 << 29;
  return (Complex){(int32_t)(((int64_t)a.re * cosine - (int64_t)a.im * sine + half) >> 30),
                   (int32_t)(((int64_t)a.re * sine + (int64_t)a.im * cosine + half) >> 30)};
}

/* The place after `place` in bit-reversed order. */
static uint32_t next_reversed(uint32_t place) {
  uint32_t bit = HALF / 2;
  while ((place & bit) != 0u) {
    place ^= bit;
    bit >>= 1;
  }
  return place | bit;
}

static int32_t windowed(const int16_t *frame, uint32_t i) {
  return i < EL_MEL_WINDOW ? (frame[i] * (int32_t)el_mel_window[i] + 256) >> 9 : 0;
}

/* Even samples become real parts, odd ones imaginary parts, in the order that the transform starts from. */
static void load(const int16_t *frame) {
  for (uint32_t i = 0, place = 0; i < HALF; i++, place = next_reversed(place))
    bins[place].z = (Complex){windowed(frame, 2u * i), windowed(frame, 2u * i + 1u)};
}

static inline void butterfly(Complex *top, Complex *low, Complex t) {
  *low = (Complex){top->re - t.re, top->im - t.im};
  *top = (Complex){top->re + t.re, top->im + t.im};
}

/* Radix 2, decimation in time. The angle 0 turns nothing, which half of the butterflies of small sizes have. */
static void transform(void) {
  for (uint32_t size = 2; size <= HALF; size *= 2) {
    const uint32_t half = size / 2u;
    for (uint32_t i = 0; i < HALF; i += size) butterfly(&bins[i].z, &bins[i + half].z, bins[i + half].z);
    for (uint32_t j = 1; j < half; j++) {
      const int32_t cosine = el_mel_cosine[j * (EL_MEL_FFT / size)], sine = el_mel_sine[j * (EL_MEL_FFT / size)];
      for (uint32_t i = j; i < HALF; i += size)
        butterfly(&bins[i].z, &bins[i + half].z, turned(bins[i + half].z, cosine, sine));
    }
  }
}

static inline uint64_t power(int32_t re, int32_t im) {
  return (uint64_t)((int64_t)re * re + (int64_t)im * im) >> 16;
}

/* The transform of the even samples plus that of the odd ones, turned; both are in `bins`, mixed with their mirror. */
static void power_of_bins(void) {
  for (uint32_t k = 0; k <= HALF / 2; k++) {
    const uint32_t mirror = (HALF - k) % HALF;
    const Complex a = bins[k].z, b = bins[mirror].z;
    const Complex even = {a.re + b.re, a.im - b.im};
    const Complex odd = turned((Complex){a.im + b.im, b.re - a.re}, el_mel_cosine[k], el_mel_sine[k]);
    bins[mirror].power = power(even.re - odd.re, even.im - odd.im);
    bins[k].power = power(even.re + odd.re, even.im + odd.im);
  }
}

/* log2 in Q16 of a number that is not 0. */
static int32_t logarithm(uint64_t value) {
  const int32_t highest = 63 - __builtin_clzll(value);
  const uint32_t mantissa = (uint32_t)(highest >= 31 ? value >> (highest - 31) : value << (31 - highest));
  const uint32_t segment = mantissa >> 26 & 31u, rest = mantissa >> 10 & 0xffffu;
  const int32_t low = el_mel_logarithm[segment], step = el_mel_logarithm[segment + 1u] - low;
  return highest * 65536 + low + (int32_t)((uint32_t)step * rest >> 16);
}

static int8_t quantized(int32_t log2) {
  const int64_t q = (((int64_t)log2 * EL_MEL_MULTIPLIER + ((int64_t)1 << 39)) >> 40) + EL_MEL_ZERO;
  return (int8_t)(q < -128 ? -128 : q > 127 ? 127 : q);
}

void el_log_mel(const int16_t *frame, int8_t *features) {
  load(frame);
  transform();
  power_of_bins();
  const uint16_t *weight = el_mel_weights;
  for (uint32_t band = 0; band < EL_MEL_BANDS; band++) {
    uint64_t energy = EL_MEL_FLOOR;
    for (uint32_t i = 0; i < el_mel_count[band]; i++) energy += bins[el_mel_first[band] + i].power * *weight++;
    features[band] = quantized(logarithm(energy) - 43 * 65536);
  }
}

void el_listen_reset(void) { hops_heard = 0u; }

void el_listen(const int16_t *samples, int8_t *map) {
  memmove(heard, heard + EL_MEL_HOP, sizeof heard - EL_MEL_HOP * sizeof *heard);
  memcpy(heard + EL_MEL_WINDOW - EL_MEL_HOP, samples, EL_MEL_HOP * sizeof *heard);
  if (hops_heard < HOPS) hops_heard++;
  if (hops_heard < HOPS) return;
  int8_t *const newest = map + (EL_MEL_FRAMES - 1) * EL_MEL_BANDS;
  memmove(map, map + EL_MEL_BANDS, (EL_MEL_FRAMES - 1) * EL_MEL_BANDS);
  el_log_mel(heard, newest);
}
