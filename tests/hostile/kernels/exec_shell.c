// Another program in its place.
// expect: returns|KernelTimeoutError
// limit: 0.5
#include "hostile.h"
KERNEL(exec_shell) {
  execl("/bin/sh", "sh", "-c", "sleep 600; : " MARK, (char *)0);
  return 0;
}
