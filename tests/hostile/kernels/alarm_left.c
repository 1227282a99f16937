// Leaves an alarm that ends the process later.
// expect: returns
// later: any
#include "hostile.h"
KERNEL(alarm_left) {
  struct itimerval soon = {.it_value = {.tv_usec = 3000}};
  return setitimer(ITIMER_REAL, &soon, 0);
}
