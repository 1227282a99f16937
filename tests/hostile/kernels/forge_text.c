// Answers in the runner's place: A time that is a text.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(forge_text) { forge("{\"id\": 3, \"elapsed_s\": \"x\"}", 0); return 0; }
