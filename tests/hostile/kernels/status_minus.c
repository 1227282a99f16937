// Fails by its own account, below zero.
// expect: KernelFailedError
#include "hostile.h"
KERNEL(status_minus) { return INT32_MIN; }
