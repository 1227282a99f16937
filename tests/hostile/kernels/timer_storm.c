// Leaves a timer that interrupts everything, all the time.
// expect: returns
// later: any
#include "hostile.h"
static void go_on(int number) { (void)number; }
KERNEL(timer_storm) {
  struct itimerval often = {{0, 50}, {0, 50}};
  signal(SIGALRM, go_on);
  return setitimer(ITIMER_REAL, &often, 0);
}
