// Daemons: twice forked, in sessions of their own.
// expect: returns
#include "hostile.h"
KERNEL(orphans) {
  for (int i = 0; i < 20; ++i)
    if (!fork()) {
      setsid();
      if (fork()) _exit(0);
      setsid();
      for (;;) pause();
    }
  return 0;
}
