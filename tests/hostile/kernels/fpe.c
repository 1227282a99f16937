// Divides by zero (ARM does not mind, so it also says so itself).
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(fpe) {
  volatile int zero = 0;
  volatile int gone = 1 / zero;
  (void)gone;
  raise(SIGFPE);
  return 0;
}
