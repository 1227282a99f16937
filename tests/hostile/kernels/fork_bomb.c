// Forks for ever where it can.
// expect: returns
// needs: seccomp
#include "hostile.h"
KERNEL(fork_bomb) {
  for (int i = 0; i < 1000; ++i) MUST_FAIL(fork());
  return 0;
}
