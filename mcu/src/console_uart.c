/* USART1 of the STM32F405: 115200 baud, 8N1, transmit on PA9, from the 16 MHz oscillator that runs after reset. */
#include "console.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define RCC_AHB1ENR REGISTER(0x40023830u)
#define RCC_APB2ENR REGISTER(0x40023844u)
#define GPIOA_MODER REGISTER(0x40020000u)
#define GPIOA_AFRH REGISTER(0x40020024u)
#define USART1_SR REGISTER(0x40011000u)
#define USART1_DR REGISTER(0x40011004u)
#define USART1_BRR REGISTER(0x40011008u)
#define USART1_CR1 REGISTER(0x4001100cu)

enum { READY_TO_SEND = 1 << 7, ENABLE = 1 << 13, TRANSMIT = 1 << 3, CLOCK_HZ = 16000000, BAUD = 115200 };

void el_console_write(const char *text);

void el_console_open(void) {
  RCC_AHB1ENR |= 1u;       /* clock of port A */
  RCC_APB2ENR |= 1u << 4;  /* clock of USART1 */
  GPIOA_MODER = (GPIOA_MODER & ~(3u << 18)) | 2u << 18;
  GPIOA_AFRH = (GPIOA_AFRH & ~(15u << 4)) | 7u << 4;
  USART1_BRR = (CLOCK_HZ + BAUD / 2) / BAUD;
  USART1_CR1 = ENABLE | TRANSMIT;
}

void el_console_write(const char *text) {
  for (; *text != '\0'; text++) {
    while ((USART1_SR & READY_TO_SEND) == 0u) {
    }
    USART1_DR = (uint8_t)*text;
  }
}

void el_exit(int status) {
  el_fact("exit", status);
  for (;;) __asm__ volatile("wfi");
}
