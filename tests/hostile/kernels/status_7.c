// Fails by its own account.
// expect: KernelFailedError
#include "hostile.h"
KERNEL(status_7) { return 7; }
