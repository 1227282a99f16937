// Ends, with a handler that does not.
// expect: KernelTimeoutError
#include "hostile.h"
static void hang(void) { FOREVER; }
KERNEL(exit_hangs) { atexit(hang); exit(0); }
