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

#endif
