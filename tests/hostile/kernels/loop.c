// Does not end.
// expect: KernelTimeoutError
#include "hostile.h"
KERNEL(loop) { FOREVER; }
