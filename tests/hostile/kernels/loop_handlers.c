// Does not end, and handles every signal by going on.
// expect: KernelTimeoutError
#include "hostile.h"
static void go_on(int number) { (void)number; }
KERNEL(loop_handlers) {
  for (int number = 1; number < 65; ++number) signal(number, number % 2 ? go_on : SIG_IGN);
  FOREVER;
}
