/* Text out and the end of the program: through the debugger (semihosting; QEMU understands it too) or a UART. */
#ifndef EL_CONSOLE_H
#define EL_CONSOLE_H

#include <stddef.h>
#include <stdint.h>

/* Called once, before anything is written. */
void el_console_open(void);
void el_text(const char *text);
void el_number(int64_t value);
void el_hex(uint32_t value);
/* Two hexadecimal digits for each byte. */
void el_bytes(const void *bytes, size_t count);
/* `key value` on a line of its own: what edge_lab/firmware reads. */
void el_fact(const char *key, int64_t value);

/* Ends the program. Under QEMU `status` becomes the exit status; on a board without debugger the core sleeps. */
_Noreturn void el_exit(int status);

#endif
