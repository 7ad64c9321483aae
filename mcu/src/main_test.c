/* The firmware that tests and measures: runs every case, prints what came out, ends with 1 if anything is wrong. */
#include <string.h>

#include "cases.h"
#include "console.h"
#include "count.h"
#include "model.h"

static void print_answer(const int8_t *outputs) {
#if EL_LABEL_COUNT > 0
  static const char *const labels[] = EL_LABELS;
  el_text(labels[el_best(outputs)]);
#else
  el_number((int64_t)el_best(outputs));
#endif
}

/* `case NUMBER INSTRUCTIONS OUTPUTS-IN-HEX ok|WRONG ANSWER`; 1 if right. */
static int run_case(uint32_t number) {
  const Case *it = &el_cases[number];
  memcpy(el_input, it->input, sizeof el_input);
  el_count_start();
  el_model_run();
  const uint64_t ticks = el_count_stop();
  const int right = memcmp(el_output, it->output, sizeof el_output) == 0;
  el_text("case ");
  el_number(number);
  el_text(" ");
  el_number((int64_t)el_instructions(ticks));
  el_text(" ");
  el_bytes(el_output, sizeof el_output);
  el_text(right ? " ok " : " WRONG ");
  print_answer(el_output);
  el_text("\n");
  return right;
}

static void measure_stack(void) {
  memcpy(el_input, el_cases[0].input, sizeof el_input);
  el_stack_paint();
  el_model_run();
  el_fact("stack", el_stack_used());
}

int main(void) {
  el_text(EL_NAME " for " EL_BACKEND "\n");
  if (!el_weights_intact()) {
    el_text("WEIGHTS: the checksum of the weights is not the exporter's; the flash is damaged or was written badly\n");
    return EL_EXIT_WEIGHTS;
  }
#ifdef EL_PROVOKE_FAULT
  *(volatile uint32_t *)0xf0000000u = 1u; /* there is nothing at this address */
#endif
  el_fact("check", (int64_t)el_count_check());
  measure_stack();
  el_fact("arena", EL_ARENA_SIZE);
  el_fact("macs", EL_MACS);
  uint32_t wrong = 0u;
  for (uint32_t i = 0u; i < el_case_count; i++) wrong += run_case(i) ? 0u : 1u;
  el_fact("cases", el_case_count);
  el_fact("wrong", wrong);
  return wrong == 0u ? 0 : EL_EXIT_WRONG;
}
