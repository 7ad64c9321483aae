/* From 16-bit samples to int8 log-mel features, in integers; edge_lab/signals/fixed_mel.py gives the same numbers to the bit. */
#ifndef EL_LOG_MEL_H
#define EL_LOG_MEL_H

#include <stdint.h>

/* The features of one frame of EL_MEL_WINDOW samples. */
void el_log_mel(const int16_t *frame, int8_t *features);

/* A stream: forget what was heard. */
void el_listen_reset(void);
/* EL_MEL_HOP more samples. Moves `map` (EL_MEL_FRAMES rows of EL_MEL_BANDS, oldest first) up by a row and appends the
   newest frame, as soon as there is one. Only the samples of one frame are kept. */
void el_listen(const int16_t *samples, int8_t *map);

#endif
