// Crashes when it is loaded.
// expect: KernelCrashedError
#include "hostile.h"
__attribute__((constructor)) static void crash(void) { *(volatile int *)8 = 1; }
KERNEL(constructor_crashes) { return 0; }
