/* From reset to main, and what happens when the core faults. No C library start-up code, no interrupt but SysTick. */
#include <string.h>

#include "console.h"
#include "count.h"

extern uint8_t el_data_start[], el_data_end[], el_bss_start[], el_bss_end[], el_stack_top[];
extern const uint8_t el_data_load[];

int main(void);
_Noreturn void el_reset(void);
void el_fault(void);
_Noreturn void el_fault_report(const uint32_t *frame);

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define CPACR REGISTER(0xe000ed88u) /* who may use the floating-point unit */
#define CFSR REGISTER(0xe000ed28u)  /* why the core faulted */
#define HFSR REGISTER(0xe000ed2cu)
#define BFAR REGISTER(0xe000ed38u) /* the address that it could not reach, if CFSR says that it is valid */

_Noreturn void el_reset(void) {
#ifdef __ARM_FP
  CPACR |= 0xfu << 20; /* the floating-point unit is off after reset */
  __asm__ volatile("dsb\n isb");
#endif
  memcpy(el_data_start, el_data_load, (size_t)(el_data_end - el_data_start));
  memset(el_bss_start, 0, (size_t)(el_bss_end - el_bss_start));
  el_console_open();
  el_exit(main());
}

/* Passes on the frame that the core pushed: r0-r3, r12, lr, pc, psr. A stack that was overrun may hold none any more:
   then the report faults in turn, the core locks up, and QEMU ends with an error as well. */
__attribute__((naked)) void el_fault(void) { __asm__ volatile("mov r0, sp\n b el_fault_report"); }

_Noreturn void el_fault_report(const uint32_t *frame) {
  el_text("FAULT: the core stopped at pc ");
  el_hex(frame[6]);
  el_text(", called from ");
  el_hex(frame[5]);
  el_text("; CFSR ");
  el_hex(CFSR);
  el_text(", HFSR ");
  el_hex(HFSR);
  el_text(", address ");
  el_hex(BFAR);
  el_text("\n");
  el_exit(EL_EXIT_FAULT);
}

typedef void (*Handler)(void);

/* Where the stack begins, reset, the faults; 15 is SysTick. Interrupts of the chip are never enabled. */
__attribute__((section(".vectors"), used)) static const struct {
  const void *stack;
  Handler handlers[15];
} vectors = {el_stack_top,
             {el_reset, el_fault, el_fault, el_fault, el_fault, el_fault, el_fault, el_fault, el_fault, el_fault,
              el_fault, el_fault, el_fault, el_fault, el_tick}};
