// Answers in the runner's place, and stops in the middle.
// expect: KernelTimeoutError
#include "hostile.h"
KERNEL(forge_half) {
  uint32_t prefix[3] = {100, 0, 0};
  if (write(the_socket(), prefix, sizeof prefix) > 0) for (;;) pause();
  return 0;
}
