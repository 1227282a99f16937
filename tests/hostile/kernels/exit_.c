// Ends in the middle, as if all were well.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(exit_) { exit(0); }
