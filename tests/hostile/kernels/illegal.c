// No instruction of any processor.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(illegal) { __builtin_trap(); }
