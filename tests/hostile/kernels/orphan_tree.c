// Each forks two, five times over, in sessions of their own; all spin.
// expect: returns
#include "hostile.h"
KERNEL(orphan_tree) {
  if (fork()) return 0;
  for (int depth = 0; depth < 5; ++depth) {
    fork();
    setsid();
  }
  FOREVER;
}
