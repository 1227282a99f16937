// Locks its memory.
// expect: returns
#include "hostile.h"
KERNEL(hog_mlock) { mlockall(MCL_CURRENT | MCL_FUTURE); return 0; }
