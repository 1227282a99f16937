// Leaves subnormals flushed to zero and another rounding.
// expect: returns
#include "hostile.h"
#if __x86_64__
#include <xmmintrin.h>
#endif
KERNEL(float_mode) {
  fesetround(FE_UPWARD);
#if __x86_64__
  _mm_setcsr(_mm_getcsr() | 0x8040);
#elif __aarch64__
  __asm__ volatile("msr fpcr, %0" ::"r"(3ul << 22 | 1ul << 24));
#endif
  return 0;
}
