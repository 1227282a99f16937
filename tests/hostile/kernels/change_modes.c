// Opens others' files to everyone.
// expect: returns
// needs: seccomp
#include "hostile.h"
KERNEL(change_modes) {
  MUST_FAIL(chmod("/tmp", 01777));
  MUST_FAIL(chown("/tmp", -1, -1));
  MUST_FAIL(utimensat(AT_FDCWD, "/tmp", 0, 0));
  return 0;
}
