// Returns; its library's destructor never does.
// expect: returns
#include "hostile.h"
__attribute__((destructor)) static void hang(void) { FOREVER; }
KERNEL(destructor_hangs) { return 0; }
