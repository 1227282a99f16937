// Answers in the runner's place: A time that is no number.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(forge_nan) { forge("{\"id\": 3, \"elapsed_s\": NaN}", 0); return 0; }
