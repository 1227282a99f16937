// Leaves handlers for all signals, and all of them blocked.
// expect: returns
#include "hostile.h"
static void go_on(int number) { (void)number; }
KERNEL(handlers_left) {
  sigset_t all;
  for (int number = 1; number < 65; ++number) signal(number, go_on);
  sigfillset(&all);
  return sigprocmask(SIG_BLOCK, &all, 0);
}
