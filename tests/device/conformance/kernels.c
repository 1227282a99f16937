// Kernels for every backend: no C library, nothing that one processor alone has.
#include <stdint.h>

#define EXPORTED __attribute__((visibility("default")))
#define KERNEL(name) EXPORTED int32_t name(void *const *args)
#define NOWHERE ((uintptr_t)-16)

KERNEL(add) {
  const float *a = args[0], *b = args[1];
  float *c = args[2];
  for (int i = 0; i < 16; ++i) c[i] = a[i] + b[i];
  return 0;
}

KERNEL(walk) {
  float *a = args[0], sum = 0;
  for (int i = 1; i < 65536; i += 16) sum += a[i];
  a[0] = sum;
  return 0;
}

KERNEL(count) {
  ++*(float *)args[0];
  return 0;
}

// What a library keeps between calls is its own.
KERNEL(remember) {
  static int32_t calls = 40;
  *(int32_t *)args[0] = ++calls;
  return 0;
}

KERNEL(status) { return 7; }

KERNEL(late_status) { return ++*(float *)args[0] == 3 ? -5 : 0; }

KERNEL(trap) { __builtin_trap(); }

KERNEL(wild_write) {
  *(volatile int32_t *)NOWHERE = 1;
  return 0;
}

KERNEL(wild_read) { return *(volatile int32_t *)NOWHERE; }

KERNEL(wild_call) {
  int32_t (*volatile function)(void) = (int32_t(*)(void))NOWHERE;
  return function();
}

KERNEL(scribble) {
  for (volatile char *p = args[0];; p += 64) *p = 1;
}

KERNEL(loop) {
  for (;;) __asm__ volatile("");
}

static __attribute__((noinline)) int32_t deeper(uint32_t depth) {
  volatile char pad[256];
  pad[depth % 256] = 1;
  return depth == UINT32_MAX ? 0 : deeper(depth + 1) + pad[depth % 256];
}

KERNEL(deep) { return deeper(0); }

#ifndef PLAIN
EXPORTED int32_t tunefarm_repeat(int32_t (*kernel)(void *const *), void *const *args,
                                 int64_t number) {
  for (int64_t i = 0; i < number; ++i) {
    int32_t status = kernel(args);
    if (status) return status;
  }
  return 0;
}
#endif
