# Netduino Plus 2: an STM32F405. CLOCK_HZ is what QEMU gives it, and what the chip runs at when its PLL is set up.
ABOUT := STM32F405: Cortex-M4F, 1 MB of flash, 128 KB of RAM (QEMU, and real boards)
CHIP := STM32F405
MACHINE := netduinoplus2
RUNS := cortex-m4 cortex-m3 cortex-m0plus
CORE_FLAGS := -mcpu=cortex-m4 -mfloat-abi=hard -mfpu=fpv4-sp-d16
SCRIPT := stm32f405.ld
CLOCK_HZ := 168000000
UART := yes
