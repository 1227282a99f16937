// Answers in the runner's place, and well: a lie, found out at the next answer.
// expect: returns|KernelCrashedError
// later: KernelCrashedError
#include "hostile.h"
KERNEL(forge_well) {
  char answer[80];
  for (int id = 3; id < 9; ++id) {
    snprintf(answer, sizeof answer, "{\"id\": %d, \"elapsed_s\": 1e-9}", id);
    forge(answer, 0);
  }
  return 0;
}
