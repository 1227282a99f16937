// Answers in the runner's place when it is loaded.
// expect: KernelCrashedError
#include "hostile.h"
__attribute__((constructor)) static void lie(void) { forge("{\"id\": 1, \"load_s\": \"soon\"}", 0); }
KERNEL(constructor_forges) { return 0; }
