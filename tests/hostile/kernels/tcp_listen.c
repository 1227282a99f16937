// Listens.
// expect: returns
// needs: seccomp
#include "hostile.h"
KERNEL(tcp_listen) {
  MUST_FAIL(socket(AF_INET, SOCK_STREAM, 0));
  MUST_FAIL(socket(AF_INET6, SOCK_DGRAM, 0));
  MUST_FAIL(socket(AF_NETLINK, SOCK_RAW, 0));
  return 0;
}
