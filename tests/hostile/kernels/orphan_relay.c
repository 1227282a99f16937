// Runs from one process to the next, so that none is there for long.
// expect: returns
#include "hostile.h"
KERNEL(orphan_relay) {
  if (fork()) return 0;
  for (;;) {
    if (fork()) _exit(0);
    setsid();
    usleep(200);
  }
}
