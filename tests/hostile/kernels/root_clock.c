// Sets the clock.
// expect: returns
// needs: no-capabilities
#include "hostile.h"
KERNEL(root_clock) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  MUST_FAIL(clock_settime(CLOCK_REALTIME, &now));
  MUST_FAIL(settimeofday(0, &(struct timezone){0}));
  MUST_FAIL(sethostname(MARK, sizeof MARK));
  return 0;
}
