/* The least that a product needs: weights checked at boot, an input in, an answer out. Its size is the model's cost. */
#include "console.h"
#include "count.h"
#include "model.h"

/* Where a driver would read the answer; volatile, so that nothing is optimised away. */
volatile uint32_t el_answer;

#ifdef EL_LISTENS
#include "el_mel_tables.h"
#include "log_mel.h"

/* Where a driver (an I2S microphone with DMA, say) would put samples; here it is silence. */
int16_t el_samples[EL_MEL_HOP];

static void take_input(void) {
  for (uint32_t i = 0; i < EL_MEL_FRAMES - 1 + EL_MEL_WINDOW / EL_MEL_HOP; i++) el_listen(el_samples, el_input);
}
#else
static void take_input(void) {} /* a driver would fill el_input */
#endif

int main(void) {
  if (!el_weights_intact()) return EL_EXIT_WEIGHTS;
  take_input();
  el_model_run();
  el_answer = el_best(el_output);
  return 0;
}
