// As many threads as it gets, up to two thousand.
// expect: returns
// later: any
#include "hostile.h"
static void *rest(void *unused) { for (;;) pause(); return unused; }
KERNEL(threads_many) {
  pthread_t one;
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 1 << 15);
  for (int i = 0; i < 2000 && !pthread_create(&one, &small, rest, 0); ++i) {}
  return 0;
}
