// Makes code writable and writes nonsense over it.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(smash_code) {
  char *page = (char *)((uintptr_t)smash_code & ~4095ull);
  if (mprotect(page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC)) abort();
  memset(page, 0xff, 4096);
  return 0;
}
