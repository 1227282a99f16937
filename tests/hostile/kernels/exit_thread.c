// Ends the runner's own thread.
// expect: KernelCrashedError|KernelTimeoutError
#include "hostile.h"
KERNEL(exit_thread) { pthread_exit(0); }
