// All memory, by malloc.
// expect: returns|KernelCrashedError|KernelTimeoutError
// limit: 0.5
// later: any
#include "hostile.h"
KERNEL(hog_malloc) {
  for (char *block; (block = malloc(1 << 24));) memset(block, 1, 1 << 24);
  return 0;
}
