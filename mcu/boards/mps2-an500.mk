# Arm MPS2 with a Cortex-M7.
ABOUT := Cortex-M7, 4 MB of each memory (QEMU)
CHIP := MPS2 AN500
MACHINE := mps2-an500
RUNS := cortex-m4 cortex-m3 cortex-m0plus
CORE_FLAGS := -mcpu=cortex-m7 -mfloat-abi=hard -mfpu=fpv5-d16
SCRIPT := mps2.ld
CLOCK_HZ := 25000000
