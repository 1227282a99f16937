// Leaves shared memory, semaphores and a queue of System V.
// expect: returns
#include "hostile.h"
KERNEL(shm_system_v) {
  int id = shmget(KEY, 1 << 20, IPC_CREAT | 0600);
  char *at = shmat(id, 0, 0);
  if (at == (char *)-1) return 1;
  memset(at, 1, 1 << 20);
  return shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600) < 0 || semget(KEY, 8, IPC_CREAT | 0600) < 0 ||
         msgget(KEY, IPC_CREAT | 0600) < 0;
}
