// Becomes another.
// expect: returns
// needs: no-capabilities
#include "hostile.h"
KERNEL(root_setuid) {
  MUST_FAIL(setuid(getuid() + 1));
  MUST_FAIL(setgid(getgid() + 1));
  MUST_FAIL(seteuid(getuid() + 1));
  return 0;
}
