# Arm MPS2 with a Cortex-M3.
ABOUT := Cortex-M3, 4 MB of each memory (QEMU)
CHIP := MPS2 AN385
MACHINE := mps2-an385
RUNS := cortex-m3 cortex-m0plus
CORE_FLAGS := -mcpu=cortex-m3
SCRIPT := mps2.ld
CLOCK_HZ := 25000000
