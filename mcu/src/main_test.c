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

/* `KIND NUMBER INSTRUCTIONS OUTPUTS-IN-HEX ok|WRONG ANSWER`; 1 if right. */
static int report(const char *kind, uint32_t number, uint64_t ticks, int right) {
  el_text(kind);
  el_text(" ");
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

/* The instructions are those of the model. */
static int run_case(uint32_t number) {
  const Case *it = &el_cases[number];
  memcpy(el_input, it->input, sizeof el_input);
  el_count_start();
  el_model_run();
  const uint64_t ticks = el_count_stop();
  return report("case", number, ticks, memcmp(el_output, it->output, sizeof el_output) == 0);
}

#ifdef EL_LISTENS
#include "log_mel.h"

static void hear(const Sound *sound) {
  el_listen_reset();
  for (uint32_t i = 0; i < EL_SOUND_HOPS; i++) el_listen(sound->samples[i], el_input);
}

/* The instructions are those of the front end, for all frames of a window. */
static int run_sound(uint32_t number) {
  const Sound *it = &el_sounds[number];
  el_count_start();
  hear(it);
  const uint64_t ticks = el_count_stop();
  const int same = memcmp(el_input, it->features, sizeof el_input) == 0;
  el_model_run();
  return report("sound", number, ticks, same && memcmp(el_output, it->output, sizeof el_output) == 0);
}
#endif

static void measure_stack(void) {
  memcpy(el_input, el_cases[0].input, sizeof el_input);
  el_stack_paint();
#ifdef EL_LISTENS
  if (el_sound_count > 0u) hear(&el_sounds[0]);
#endif
  el_model_run();
  el_fact("stack", el_stack_used());
}

static uint32_t run_all(void) {
  uint32_t wrong = 0u;
  for (uint32_t i = 0u; i < el_case_count; i++) wrong += run_case(i) ? 0u : 1u;
#ifdef EL_LISTENS
  for (uint32_t i = 0u; i < el_sound_count; i++) wrong += run_sound(i) ? 0u : 1u;
  el_fact("sounds", el_sound_count);
#endif
  el_fact("cases", el_case_count);
  el_fact("wrong", wrong);
  return wrong;
}

int main(void) {
  el_text(EL_NAME " for " EL_BACKEND "\n");
#ifdef EL_COUNT_CYCLES
  el_text("counts are clock cycles\n");
#endif
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
  return run_all() == 0u ? 0 : EL_EXIT_WRONG;
}
