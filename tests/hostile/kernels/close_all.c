// Closes every descriptor.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(close_all) { for (int fd = 0; fd < 1024; ++fd) close(fd); return 0; }
