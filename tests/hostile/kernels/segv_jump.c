// Jumps where nothing is.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(segv_jump) { volatile uintptr_t at = 64; ((void (*)(void))at)(); return 0; }
