# Arm MPS2 with a Cortex-M4F.
ABOUT := Cortex-M4F, 4 MB of each memory (QEMU)
CHIP := MPS2 AN386
MACHINE := mps2-an386
RUNS := cortex-m4 cortex-m3 cortex-m0plus
CORE_FLAGS := -mcpu=cortex-m4 -mfloat-abi=hard -mfpu=fpv4-sp-d16
SCRIPT := mps2.ld
CLOCK_HZ := 25000000
