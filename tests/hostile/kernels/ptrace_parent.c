// Traces the process that watches it.
// expect: returns
// needs: seccomp
#include "hostile.h"
KERNEL(ptrace_parent) {
  MUST_FAIL(ptrace(PTRACE_ATTACH, getppid(), 0, 0));
  MUST_FAIL(ptrace(PTRACE_SEIZE, getppid(), 0, 0));
  return 0;
}
