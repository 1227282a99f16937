// Lives on whatever ends it: no death with its parent, a reaper of orphans itself.
// expect: KernelTimeoutError
#include "hostile.h"
KERNEL(loop_masked_end) {
  prctl(PR_SET_PDEATHSIG, 0);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_DUMPABLE, 0);
  prctl(PR_SET_NAME, "kthreadd");
  setsid();
  setpgid(0, getppid());
  FOREVER;
}
