// Waits for a thread that does not end.
// expect: KernelTimeoutError
#include "hostile.h"
static void *spin(void *unused) { FOREVER; return unused; }
KERNEL(loop_thread) {
  pthread_t one;
  return pthread_create(&one, 0, spin, 0) || pthread_join(one, 0);
}
