// Reads where nothing is.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(segv_read) { return *(volatile int *)8; }
