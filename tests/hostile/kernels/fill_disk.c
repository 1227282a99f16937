// A file without end.
// expect: returns
// needs: landlock
#include "hostile.h"
KERNEL(fill_disk) {
  MUST_FAIL(open("/tmp/" MARK "-full", O_CREAT | O_WRONLY, 0600));
  MUST_FAIL(open("/var/tmp/" MARK "-full", O_CREAT | O_WRONLY, 0600));
  MUST_FAIL(open("/dev/shm/" MARK "-full", O_CREAT | O_WRONLY, 0600));
  return 0;
}
