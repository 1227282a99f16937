// Leaves temporary files.
// expect: returns
// needs: landlock
#include "hostile.h"
KERNEL(temporary_files) {
  char name[] = "/tmp/" MARK "-XXXXXX";
  MUST_FAIL(mkstemp(name));
  return tmpfile() != 0;
}
