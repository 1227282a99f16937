// Writes over the C library's data.
// expect: KernelCrashedError|KernelTimeoutError|returns
// limit: 1
// later: any
#include "hostile.h"
KERNEL(smash_libc) {
  memset(stdout, 0x41, 4096);
  memset((char *)&environ - 512, 0x41, 1024);
  printf("%d", 1);
  return 0;
}
