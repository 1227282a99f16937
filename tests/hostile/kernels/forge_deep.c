// Answers in the runner's place: lists in lists in lists.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(forge_deep) {
  static char deep[16001];
  memset(deep, '[', 16000);
  forge(deep, 0);
  return 0;
}
