// Answers in the runner's place: A time below zero.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(forge_negative) { forge("{\"id\": 3, \"elapsed_s\": -1}", 0); return 0; }
