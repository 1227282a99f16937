// Ends in the middle, at once.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(exit_quick) { _exit(0); }
