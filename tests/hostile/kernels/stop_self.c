// Stops itself.
// expect: KernelTimeoutError
#include "hostile.h"
KERNEL(stop_self) { return raise(SIGSTOP); }
