// Calls itself for ever.
// expect: KernelCrashedError
#include "hostile.h"
static int deeper(volatile int *at) { volatile int here[64] = {*at}; return deeper(here) + here[1]; }
KERNEL(stack_recursion) { return deeper(args[0]); }
