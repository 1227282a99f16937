// Writes garbage to every descriptor.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(garbage_all) {
  for (int fd = 0; fd < 64; ++fd)
    for (int i = 0; i < 100; ++i)
      if (write(fd, "garbage, and more of it", 23) < 0) break;
  return 0;
}
