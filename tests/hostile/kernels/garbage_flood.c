// Floods the runner's socket.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(garbage_flood) {
  static char block[1 << 20];
  memset(block, 0x7f, sizeof block);
  while (write(the_socket(), block, sizeof block) > 0) {}
  return 0;
}
