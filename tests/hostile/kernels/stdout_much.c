// Says much, with words that are none, and dies.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(stdout_much) {
  for (int i = 0; i < 100000; ++i) fputs("\033[2J\xff\xfe\r", stderr);
  abort();
}
