// Makes a world of its own, in which it is root.
// expect: returns
// needs: seccomp
#include "hostile.h"
KERNEL(root_unshare) {
  MUST_FAIL(unshare(CLONE_NEWUSER));
  MUST_FAIL(unshare(CLONE_NEWNS));
  MUST_FAIL(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
  return 0;
}
