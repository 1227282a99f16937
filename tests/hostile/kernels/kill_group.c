// Kills its process group.
// expect: returns|KernelCrashedError
#include "hostile.h"
KERNEL(kill_group) { kill(0, SIGKILL); killpg(getpgrp(), SIGKILL); return 0; }
