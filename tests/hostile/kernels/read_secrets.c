// Reads what is not its own.
// expect: returns
// needs: landlock
#include "hostile.h"
KERNEL(read_secrets) {
  MUST_FAIL(open("/etc/passwd", O_RDONLY));
  MUST_FAIL(open("/etc/shadow", O_RDONLY));
  MUST_FAIL(open("/root", O_RDONLY));
  MUST_FAIL(open("/home", O_RDONLY));
  MUST_FAIL(open("/proc/1/environ", O_RDONLY));
  MUST_FAIL(open("/dev/mem", O_RDWR));
  MUST_FAIL(open("/", O_RDONLY));
  return 0;
}
