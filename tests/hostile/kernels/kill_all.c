// Kills every process.
// expect: returns
// needs: seccomp
#include "hostile.h"
KERNEL(kill_all) { MUST_FAIL(kill(-1, SIGKILL)); return 0; }
