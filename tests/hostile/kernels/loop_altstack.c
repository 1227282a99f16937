// Faults for ever: its handler, on a stack of its own, returns to the fault.
// expect: KernelTimeoutError
#include "hostile.h"
static void again(int number) { (void)number; }
KERNEL(loop_altstack) {
  static char other[1 << 16];
  stack_t stack = {.ss_sp = other, .ss_size = sizeof other};
  struct sigaction action = {.sa_handler = again, .sa_flags = SA_ONSTACK | SA_NODEFER};
  sigaltstack(&stack, 0);
  sigaction(SIGSEGV, &action, 0);
  return *(volatile int *)8;
}
