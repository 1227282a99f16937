// Lets the system end it by its time.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(limit_of_time) {
  struct rlimit second = {1, 1};
  setrlimit(RLIMIT_CPU, &second);
  FOREVER;
}
