// Runs kernels in a process of its own, for any processor, without a C library.
//
// From standard input comes a library as it lies in memory: its size, how many kernels and helpers
// there are, the bytes, where each kernel begins, where which helper's address belongs. Then come
// calls: the kernel's number, how many arguments, whether they lie at the
// end of their pages (else at the beginning), their sizes, then their bytes, the output's last.
// Each argument lies between pages that may not be touched, and what is no output may not be
// written. To standard output go the call's status and the bytes of the output.
#include <stdint.h>

#if defined(__x86_64__)
enum { READ = 0, WRITE = 1, MAP = 9, PROTECT = 10, UNMAP = 11, EXIT = 60 };
#define TRAP \
  register long r __asm__("rax") = n, x __asm__("rdi") = a, y __asm__("rsi") = b, \
                z __asm__("rdx") = c, u __asm__("r10") = d, v __asm__("r8") = e, \
                w __asm__("r9") = f; \
  __asm__ volatile("syscall" : "+r"(r) : "r"(x), "r"(y), "r"(z), "r"(u), "r"(v), "r"(w) \
                   : "rcx", "r11", "memory"); \
  return r
#elif defined(__aarch64__)
enum { READ = 63, WRITE = 64, MAP = 222, PROTECT = 226, UNMAP = 215, EXIT = 93 };
#define TRAP \
  register long t __asm__("x8") = n, r __asm__("x0") = a, y __asm__("x1") = b, \
                z __asm__("x2") = c, u __asm__("x3") = d, v __asm__("x4") = e, w __asm__("x5") = f; \
  __asm__ volatile("svc 0" : "+r"(r) : "r"(t), "r"(y), "r"(z), "r"(u), "r"(v), "r"(w) : "memory"); \
  return r
#elif defined(__arm__)
enum { READ = 3, WRITE = 4, MAP = 192, PROTECT = 125, UNMAP = 91, EXIT = 1 };
#define TRAP \
  register long t __asm__("r7") = n, r __asm__("r0") = a, y __asm__("r1") = b, \
                z __asm__("r2") = c, u __asm__("r3") = d, v __asm__("r4") = e, w __asm__("r5") = f; \
  __asm__ volatile("svc 0" : "+r"(r) : "r"(t), "r"(y), "r"(z), "r"(u), "r"(v), "r"(w) : "memory"); \
  return r
#else
enum { READ = 63, WRITE = 64, MAP = 222, PROTECT = 226, UNMAP = 215, EXIT = 93 };
#define TRAP \
  register long t __asm__("a7") = n, r __asm__("a0") = a, y __asm__("a1") = b, \
                z __asm__("a2") = c, u __asm__("a3") = d, v __asm__("a4") = e, w __asm__("a5") = f; \
  __asm__ volatile("ecall" : "+r"(r) : "r"(t), "r"(y), "r"(z), "r"(u), "r"(v), "r"(w) : "memory"); \
  return r
#endif

enum { PAGE = 4096, MOST = 8, NOTHING = 0, READABLE = 1, BOTH = 3, PRIVATE_ANONYMOUS = 0x22 };
enum { ANYTHING = 7, KERNELS = 4096 };
typedef int32_t Kernel(void *const *args);
static uint32_t kernels[KERNELS];

static long trap(long n, long a, long b, long c, long d, long e, long f) { TRAP; }

// What compiled code may call, and has no C library here.
void *memcpy(void *to, const void *from, unsigned long size) {
  for (unsigned long i = 0; i < size; i++) ((volatile char *)to)[i] = ((const char *)from)[i];
  return to;
}
void *memset(void *to, int value, unsigned long size) {
  for (unsigned long i = 0; i < size; i++) ((volatile char *)to)[i] = (char)value;
  return to;
}
void *memmove(void *to, const void *from, unsigned long size) {
  if (to <= from) return memcpy(to, from, size);
  while (size-- > 0) ((volatile char *)to)[size] = ((const char *)from)[size];
  return to;
}
float fmaf(float a, float b, float c) { return (float)((double)a * b + c); }

static int all(long call, int file, void *at, long left) {
  for (char *here = at; left > 0;) {
    long done = trap(call, file, (long)here, left, 0, 0, 0);
    if (done <= 0) return 0;
    here += done, left -= done;
  }
  return 1;
}

static void leave(int status) {
  for (;;) trap(EXIT, status, 0, 0, 0, 0, 0);
}

static char *load(void) {
  void *const helpers[] = {(void *)fmaf, (void *)memcpy, (void *)memset, (void *)memmove};
  uint32_t head[3], wanted[2];
  if (!all(READ, 0, head, sizeof head) || head[1] > KERNELS) leave(80);
  long place = trap(MAP, 0, head[0], ANYTHING, PRIVATE_ANONYMOUS, -1, 0);
  if (place < 0 && place > -PAGE) leave(81);
  if (!all(READ, 0, (char *)place, head[0])) leave(82);
  if (!all(READ, 0, kernels, 4L * head[1])) leave(83);
  for (uint32_t i = 0; i < head[2]; i++) {
    if (!all(READ, 0, wanted, sizeof wanted)) leave(84);
    *(void **)(place + wanted[0]) = helpers[wanted[1]];
  }
  return (char *)place;
}

static void serve(void) {
  char *library = load();
  uint32_t head[3], sizes[MOST];
  char *pages[MOST], *data[MOST];
  while (all(READ, 0, head, sizeof head)) {
    uint32_t count = head[1];
    if (count > MOST || !all(READ, 0, sizes, 4L * count)) leave(90);
    for (uint32_t i = 0; i < count; i++) {
      long room = (sizes[i] + PAGE - 1) / PAGE * PAGE;
      long place = trap(MAP, 0, room + 2 * PAGE, NOTHING, PRIVATE_ANONYMOUS, -1, 0);
      if (place < 0 && place > -PAGE) leave(91);
      pages[i] = (char *)place;
      char *first = pages[i] + PAGE;
      if (trap(PROTECT, (long)first, room, BOTH, 0, 0, 0)) leave(92);
      data[i] = head[2] ? first + room - sizes[i] : first;
      if (!all(READ, 0, data[i], sizes[i])) leave(93);
      if (i + 1 < count && trap(PROTECT, (long)first, room, READABLE, 0, 0, 0)) leave(94);
    }
    Kernel *kernel = (Kernel *)(library + kernels[head[0]]);
    int32_t status = kernel((void *const *)data);
    if (!all(WRITE, 1, &status, 4) || !all(WRITE, 1, data[count - 1], sizes[count - 1])) leave(95);
    for (uint32_t i = 0; i < count; i++) {
      long room = (sizes[i] + PAGE - 1) / PAGE * PAGE;
      trap(UNMAP, (long)pages[i], room + 2 * PAGE, 0, 0, 0, 0);
    }
  }
  leave(0);
}

#if defined(__x86_64__)
__attribute__((force_align_arg_pointer))
#endif
void _start(void) { serve(); }
