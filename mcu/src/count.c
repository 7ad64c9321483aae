#include "count.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SYST_CSR REGISTER(0xe000e010u)
#define SYST_RVR REGISTER(0xe000e014u)
#define SYST_CVR REGISTER(0xe000e018u)

enum { FULL = 0xffffff, ENABLE = 1, INTERRUPT = 2, PROCESSOR_CLOCK = 4 };
#define PATTERN 0xa5c35a3cu

extern uint32_t el_bss_end[], el_stack_top[];

static volatile uint32_t turns;

void el_tick(void) { turns = turns + 1u; }

void el_count_start(void) {
  SYST_CSR = 0u;
  turns = 0u;
  SYST_RVR = FULL;
  SYST_CVR = 0u; /* any write clears it; it starts again from FULL */
  SYST_CSR = ENABLE | INTERRUPT | PROCESSOR_CLOCK;
}

uint64_t el_count_stop(void) {
  const uint32_t now = SYST_CVR;
  SYST_CSR = 0u;
  return (uint64_t)turns * (FULL + 1u) + (FULL - now);
}

uint64_t el_instructions(uint64_t ticks) {
#ifdef EL_COUNT_CYCLES
  return ticks;
#else
  return ticks * 1000u / (EL_CLOCK_HZ / 1000000u);
#endif
}

uint64_t el_count_check(void) {
  uint32_t loops = 100000u;
  el_count_start();
  __asm__ volatile("1: subs %0, %0, #1\n bne 1b" : "+r"(loops) : : "cc");
  return el_instructions(el_count_stop());
}

void el_stack_paint(void) {
  const uint32_t *here = __builtin_frame_address(0);
  for (volatile uint32_t *at = el_bss_end; at < here - 16; at++) *at = PATTERN;
}

uint32_t el_stack_used(void) {
  const volatile uint32_t *at = el_bss_end;
  while (at < el_stack_top && *at == PATTERN) at++;
  return (uint32_t)((const volatile uint8_t *)el_stack_top - (const volatile uint8_t *)at);
}
