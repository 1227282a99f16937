// Files in memory until there are no more descriptors.
// expect: returns|KernelCrashedError
// later: any
#include "hostile.h"
KERNEL(hog_memfd) {
  static char block[1 << 16];
  for (int fd; (fd = memfd_create(MARK, 0)) >= 0;)
    while (write(fd, block, sizeof block) > 0) {}
  return 0;
}
