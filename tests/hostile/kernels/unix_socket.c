// Listens on a name, and talks to those of others.
// expect: returns
// needs: seccomp
#include "hostile.h"
KERNEL(unix_socket) {
  struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "\0" MARK};
  int ends[2];
  MUST_FAIL(socket(AF_UNIX, SOCK_STREAM, 0));
  if (socketpair(AF_UNIX, SOCK_DGRAM, 0, ends)) return 0;
  MUST_FAIL(connect(ends[0], (void *)&name, sizeof name));
  return 0;
}
