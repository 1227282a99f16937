// Jumps back to where nothing was set.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(longjmp_nonsense) {
  static jmp_buf never;
  memset(never, 0x41, sizeof never);
  longjmp(never, 1);
}
