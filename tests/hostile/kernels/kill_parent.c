// Kills the process that watches it.
// expect: returns
// needs: seccomp
#include "hostile.h"
KERNEL(kill_parent) { MUST_FAIL(kill(getppid(), SIGKILL)); return 0; }
