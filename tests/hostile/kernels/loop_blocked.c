// Does not end, and blocks every signal.
// expect: KernelTimeoutError
#include "hostile.h"
KERNEL(loop_blocked) {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, 0);
  FOREVER;
}
