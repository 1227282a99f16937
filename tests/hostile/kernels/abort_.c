// Gives up.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(abort_) { fprintf(stderr, "it hurts\n"); abort(); }
