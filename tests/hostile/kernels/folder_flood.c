// Twenty thousand files in the folder that is its own, and then it waits.
// Half of them are too many, and it is ended for that within a second. On one busy processor it may
// not get so far (2,000 files a second were seen, of 40,000): then its time limit ends it as rightly.
// That the guard ends one with time enough is tested in test_device_files.py.
// expect: KernelCrashedError|KernelTimeoutError
#include "hostile.h"
KERNEL(folder_flood) {
  char name[32];
  for (int i = 0; i < 20000; ++i) {
    snprintf(name, sizeof name, "flood-%d", i);
    close(open(name, O_CREAT | O_WRONLY, 0600));
  }
  for (;;) pause();
}
