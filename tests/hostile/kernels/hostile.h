// What all of these kernels use. They get one argument, float32[16], and hold to nothing.
#define _GNU_SOURCE
#include <alloca.h>
#include <errno.h>
#include <fcntl.h>
#include <fenv.h>
#include <locale.h>
#include <mqueue.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <arpa/inet.h>
#include <time.h>
#include <unistd.h>

#define MARK "tunefarm-hostile"
#define KEY 0x74756e65
#define KERNEL(name) int32_t name(void *const *args)
#define FOREVER for (;;) __asm__ volatile("")
// 0 where it was refused, and a status that fails the test where it was not.
#define MUST_FAIL(what) do { if ((long)(what) >= 0) return __LINE__; } while (0)

static inline int the_socket(void) {
  struct stat at;
  for (int fd = 0; fd < 1024; ++fd)
    if (!fstat(fd, &at) && S_ISSOCK(at.st_mode)) return fd;
  return -1;
}

static inline void forge(const char *header, uint64_t payload) {
  struct __attribute__((packed)) { uint32_t header; uint64_t payload; } prefix = {
      (uint32_t)strlen(header), payload};
  int fd = the_socket();
  if (write(fd, &prefix, sizeof prefix) < 0 || write(fd, header, strlen(header)) < 0) abort();
}
