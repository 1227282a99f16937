// Jumps into its data.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(segv_code) { ((void (*)(void))args[0])(); return 0; }
