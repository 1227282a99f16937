// A stack without end.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(stack_alloca) { for (;;) *(volatile char *)alloca(1 << 16) = 1; }
