// Says more than anyone wants to hear.
// expect: KernelTimeoutError
#include "hostile.h"
KERNEL(stdout_endless) { for (;;) puts("endless output of a kernel"), fputs("\a\033[2J\xff", stderr); }
