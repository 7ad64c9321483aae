/* Semihosting: the debugger (or QEMU) stops at this breakpoint, does what r0 asks for, and goes on.
   Without a debugger the breakpoint is a fault: a firmware for a board in the field is built with CONSOLE=uart. */
#include "console.h"

enum { SYS_WRITE0 = 0x04, SYS_EXIT_EXTENDED = 0x20, APPLICATION_EXIT = 0x20026 };

void el_console_write(const char *text);

static void semihost(uint32_t operation, const void *argument) {
  register uint32_t r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

void el_console_open(void) {}

void el_console_write(const char *text) { semihost(SYS_WRITE0, text); }

void el_exit(int status) {
  const uint32_t block[2] = {APPLICATION_EXIT, (uint32_t)status};
  semihost(SYS_EXIT_EXTENDED, block);
  for (;;) __asm__ volatile("wfi");
}
