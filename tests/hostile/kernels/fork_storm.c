// Forks as fast as it can, each in a session of its own, five hundred in all.
// expect: returns
#include "hostile.h"
KERNEL(fork_storm) {
  int *count = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (count == MAP_FAILED || fork()) return 0;
  for (;;) {
    if (__atomic_add_fetch(count, 1, __ATOMIC_SEQ_CST) < 500) fork();
    setsid();
  }
}
