// Leaves traps for what is not exact.
// expect: returns|KernelCrashedError
#include "hostile.h"
KERNEL(float_traps) { feenableexcept(FE_ALL_EXCEPT); return 0; }
