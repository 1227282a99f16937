// Takes its parent's descriptors, processor and memory by limits.
// expect: returns
// needs: seccomp
#include "hostile.h"
KERNEL(limits_of_parent) {
  struct rlimit none = {0, 0};
  cpu_set_t first;
  CPU_ZERO(&first);
  CPU_SET(0, &first);
  MUST_FAIL(prlimit(getppid(), RLIMIT_NOFILE, &none, 0));
  MUST_FAIL(sched_setaffinity(getppid(), sizeof first, &first));
  MUST_FAIL(setpriority(PRIO_PROCESS, getppid(), 19));
  MUST_FAIL(syscall(SYS_ioprio_set, 1, getppid(), 3 << 13));
  return 0;
}
