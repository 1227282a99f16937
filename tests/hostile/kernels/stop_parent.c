// Stops the process that watches it.
// expect: returns
// needs: seccomp
#include "hostile.h"
KERNEL(stop_parent) { MUST_FAIL(kill(getppid(), SIGSTOP)); return 0; }
