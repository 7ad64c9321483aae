/* How much work a piece of code is: instructions (in QEMU with -icount shift=0), and how deep the stack went.

   QEMU gives every instruction 1 ns of its virtual time, and SysTick counts the board's clock in that time:
   instructions = ticks * 1000 / MHz. On a real board a tick is a clock cycle: EL_COUNT_CYCLES reports them as they are. */
#ifndef EL_COUNT_H
#define EL_COUNT_H

#include <stdint.h>

enum { EL_EXIT_WRONG = 1, EL_EXIT_WEIGHTS = 3, EL_EXIT_FAULT = 4 };

/* The 24-bit counter has run down: one more turn. */
void el_tick(void);
void el_count_start(void);
/* Ticks since el_count_start. */
uint64_t el_count_stop(void);
/* Instructions of so many ticks in QEMU, for the board's clock (EL_CLOCK_HZ); cycles with EL_COUNT_CYCLES. */
uint64_t el_instructions(uint64_t ticks);
/* Instructions that the counter sees in a loop of 200000. */
uint64_t el_count_check(void);

/* Fills the free stack with a pattern. */
void el_stack_paint(void);
/* Bytes of stack that were used since then, counted from its top. */
uint32_t el_stack_used(void);

#endif
