// Answers in the runner's place: That it is ready, again.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(forge_ready) { forge("{\"ready\": true}", 0); return 0; }
