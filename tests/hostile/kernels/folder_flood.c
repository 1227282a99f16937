// Twenty thousand files in the folder that is its own, and then it waits.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(folder_flood) {
  char name[32];
  for (int i = 0; i < 20000; ++i) {
    snprintf(name, sizeof name, "flood-%d", i);
    close(open(name, O_CREAT | O_WRONLY, 0600));
  }
  for (;;) pause();
}
