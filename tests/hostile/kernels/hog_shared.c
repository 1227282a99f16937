// All memory, by shared maps that no limit counts.
// expect: returns|KernelCrashedError|KernelTimeoutError
// limit: 0.5
// later: any
#include "hostile.h"
KERNEL(hog_shared) {
  for (;;) {
    char *block = mmap(0, 1 << 24, PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) return 0;
    memset(block, 1, 1 << 24);
  }
}
