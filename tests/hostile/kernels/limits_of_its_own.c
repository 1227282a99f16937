// Leaves itself nothing.
// expect: returns
// later: any
#include "hostile.h"
KERNEL(limits_of_its_own) {
  struct rlimit none = {0, 0};
  for (int which = 0; which < RLIM_NLIMITS; ++which)
    if (which != RLIMIT_CPU) setrlimit(which, &none);
  return 0;
}
