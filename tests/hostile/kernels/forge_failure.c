// Answers in the runner's place: A failure of no kind.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(forge_failure) { forge("{\"id\": 3, \"failed\": [1], \"text\": {}}", 0); return 0; }
