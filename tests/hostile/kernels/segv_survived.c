// Faults and jumps back out of the handler.
// expect: returns
#include "hostile.h"
static sigjmp_buf back;
static void out(int number) { siglongjmp(back, number); }
KERNEL(segv_survived) {
  signal(SIGSEGV, out);
  if (!sigsetjmp(back, 1)) *(volatile int *)8 = 1;
  return 0;
}
