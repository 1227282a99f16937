// Writes far over the ends of its argument.
// expect: KernelCrashedError|KernelTimeoutError|returns
// limit: 1
// later: any
#include "hostile.h"
KERNEL(smash_arrays) {
  for (long at = 0; at < 1 << 24; at += 16) ((volatile float *)args[0])[at] = at;
  return 0;
}
