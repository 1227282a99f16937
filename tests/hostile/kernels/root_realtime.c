// Spins above all other processes.
// expect: KernelTimeoutError
#include "hostile.h"
KERNEL(root_realtime) {
  struct sched_param most = {.sched_priority = 99};
  sched_setscheduler(0, SCHED_FIFO, &most);
  setpriority(PRIO_PROCESS, 0, -20);
  FOREVER;
}
