/* The bundle's model, and whether its weights are still those that were exported. */
#ifndef EL_MODEL_H
#define EL_MODEL_H

#include "edge_lab_model.h"

extern int8_t el_input[EL_INPUT_SIZE], el_output[EL_OUTPUT_SIZE];

/* 1 if the CRC-32 of all constants is the bundle's. */
int el_weights_intact(void);
/* el_input -> el_output. */
void el_model_run(void);
/* Place of the largest output. */
uint32_t el_best(const int8_t *outputs);

#endif
