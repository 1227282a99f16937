// Answers in the runner's place: four gigabytes, it says.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(forge_long) {
  uint32_t prefix[3] = {~0u, ~0u, ~0u};
  return write(the_socket(), prefix, sizeof prefix) < 0;
}
