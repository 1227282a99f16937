// Hangs when it is loaded.
// expect: KernelTimeoutError
#include "hostile.h"
__attribute__((constructor)) static void hang(void) { FOREVER; }
KERNEL(constructor_hangs) { return 0; }
