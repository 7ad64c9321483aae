/* From reset to main, and what happens at a fault. There is no C library start-up code, no heap, no interrupt but SysTick. */
#include "console.h"
#include "count.h"
#include "model.h"

extern uint32_t el_data_load[], el_data_start[], el_data_end[], el_bss_start[], el_bss_end[], el_stack_top[];

int main(void);
void el_reset(void);

static void el_fault(void) {
  el_text("FAULT: the core stopped at something it can't do (wrong address, unknown instruction, stack overrun)\n");
  el_exit(EL_EXIT_FAULT);
}

void el_reset(void) {
  for (uint32_t *to = el_data_start, *from = el_data_load; to < el_data_end;) *to++ = *from++;
  for (uint32_t *to = el_bss_start; to < el_bss_end;) *to++ = 0u;
#ifdef __ARM_FP
  *(volatile uint32_t *)0xe000ed88u |= 0xfu << 20; /* the floating-point unit is off after reset */
  __asm__ volatile("dsb\n isb");
#endif
  el_console_open();
  el_exit(main());
}

typedef void (*Handler)(void);

/* Where the stack begins, reset, the faults; at 15 SysTick, at the others what must not happen. */
__attribute__((section(".vectors"), used)) static const struct {
  const void *stack;
  Handler handlers[15];
} vectors = {el_stack_top,
             {el_reset, el_fault, el_fault, el_fault, el_fault, el_fault, el_fault, el_fault, el_fault, el_fault,
              el_fault, el_fault, el_fault, el_fault, el_tick}};
