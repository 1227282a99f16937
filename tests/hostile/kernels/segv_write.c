// Writes where nothing is.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(segv_write) { *(volatile int *)8 = 1; return 0; }
