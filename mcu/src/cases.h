/* Inputs with the outputs that they must give: a table that edge_lab/firmware writes. */
#ifndef EL_CASES_H
#define EL_CASES_H

#include "edge_lab_model.h"

typedef struct {
  int8_t input[EL_INPUT_SIZE];
  int8_t output[EL_OUTPUT_SIZE];
} Case;

extern const Case el_cases[];
extern const uint32_t el_case_count;

#ifdef EL_LISTENS
#include "el_mel_tables.h"

/* Samples of one window, in whole hops. */
#define EL_SOUND_HOPS (EL_MEL_FRAMES - 1 + EL_MEL_WINDOW / EL_MEL_HOP)

typedef struct {
  int16_t samples[EL_SOUND_HOPS][EL_MEL_HOP];
  int8_t features[EL_INPUT_SIZE];
  int8_t output[EL_OUTPUT_SIZE];
} Sound;

extern const Sound el_sounds[];
extern const uint32_t el_sound_count;
#endif

#endif
