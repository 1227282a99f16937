// Answers in the runner's place: No object.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(forge_list) { forge("[1, 2, 3]", 0); return 0; }
