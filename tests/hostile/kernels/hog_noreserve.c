// A terabyte that it does not use.
// expect: returns
#include "hostile.h"
KERNEL(hog_noreserve) {
  mmap(0, 1ull << 40, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return 0;
}
