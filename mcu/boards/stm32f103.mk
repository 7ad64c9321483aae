# STM32F103x8 ("blue pill"): no machine in QEMU is one, so that here firmware is only linked for it.
ABOUT := STM32F103: Cortex-M3, 64 KB of flash, 20 KB of RAM (link check only)
CHIP := STM32F103
MACHINE :=
RUNS := cortex-m3 cortex-m0plus
CORE_FLAGS := -mcpu=cortex-m3
SCRIPT := stm32f103.ld
CLOCK_HZ := 72000000
