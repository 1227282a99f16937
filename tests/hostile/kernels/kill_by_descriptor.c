// Makes its parent the owner of a descriptor that signals SIGKILL.
// expect: returns
// needs: seccomp
#include "hostile.h"
KERNEL(kill_by_descriptor) {
  int ends[2], parent = getppid();
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return 1;
  MUST_FAIL(fcntl(ends[0], F_SETSIG, SIGKILL));
  MUST_FAIL(fcntl(ends[0], F_SETOWN, parent));
  MUST_FAIL(ioctl(ends[0], 0x8901, &parent));
  close(ends[0]);
  close(ends[1]);
  return 0;
}
