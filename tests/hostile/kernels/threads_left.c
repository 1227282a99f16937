// Leaves threads that spin.
// expect: returns
#include "hostile.h"
static void *spin(void *unused) { FOREVER; return unused; }
KERNEL(threads_left) {
  pthread_t one;
  for (int i = 0; i < 8; ++i)
    if (pthread_create(&one, 0, spin, 0)) return 1;
  return 0;
}
