// Answers in the runner's place: Nothing.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(forge_empty) { forge("", 0); return 0; }
