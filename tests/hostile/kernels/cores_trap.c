// Has the runner tell the processors for its threads where nobody can write.
// expect: KernelCrashedError
#include "hostile.h"

const int32_t tunefarm_cores = 1;
KERNEL(cores_trap) { return 0; }
