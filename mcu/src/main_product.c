/* The least that a product needs: weights checked at boot, an input in, an answer out. Its size is the model's cost. */
#include "console.h"
#include "count.h"
#include "model.h"

/* Where a driver would put its input and read the answer; volatile, so that nothing is optimised away. */
volatile uint32_t el_answer;

int main(void) {
  if (!el_weights_intact()) return EL_EXIT_WEIGHTS;
  el_model_run();
  el_answer = el_best(el_output);
  return 0;
}
