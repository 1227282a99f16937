// Leaves a thread that takes a frame meant for the runner, and then dies.
// expect: returns|KernelCrashedError
// later: KernelCrashedError|right
#include "hostile.h"
static void *steal(void *unused) {
  char block[4096];
  if (read(the_socket(), block, sizeof block) > 0) abort();
  return unused;
}
KERNEL(steal_frames) {
  pthread_t one;
  return pthread_create(&one, 0, steal, 0);
}
