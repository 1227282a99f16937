// Leaves a thread that crashes when nobody thinks of it.
// expect: returns
// later: any
#include "hostile.h"
static void *crash(void *unused) { usleep(2000); *(volatile int *)8 = 1; return unused; }
KERNEL(thread_crashes_later) { pthread_t one; return pthread_create(&one, 0, crash, 0); }
