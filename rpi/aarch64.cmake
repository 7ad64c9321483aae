# Cross-builds for a 64-bit Raspberry Pi (3, 4, 5, Zero 2) on Debian or Ubuntu:
#
#   make arm-tools            # the compiler, and rpi/build/aarch64 (rpi/fetch_aarch64.py says what is in it)
#   make runner-aarch64
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

# Headers and libraries come from these two folders, never from this machine, whose own would be x86.
set(CMAKE_SYSROOT ${CMAKE_CURRENT_LIST_DIR}/build/aarch64/root)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(executorch_DIR ${CMAKE_CURRENT_LIST_DIR}/build/aarch64/executorch/share/cmake CACHE PATH "the wheel's CMake files")

# What every 64-bit Pi understands, be it a Cortex-A53, A72 or A76. The engine picks faster kernels when it runs.
set(CMAKE_CXX_FLAGS_INIT "-march=armv8-a -Wno-psabi")  # psabi: remarks on gcc before 10
