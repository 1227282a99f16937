// Reads and writes its parent's memory.
// expect: returns
// needs: landlock seccomp
#include "hostile.h"
#include <sys/uio.h>
KERNEL(read_parent) {
  char path[64], byte;
  const char *names[] = {"mem", "environ", "maps", "fd", "cwd"};
  for (int i = 0; i < 5; ++i) {
    snprintf(path, sizeof path, "/proc/%d/%s", getppid(), names[i]);
    MUST_FAIL(open(path, i ? O_RDONLY : O_RDWR));
  }
  struct iovec here = {&byte, 1}, there = {(void *)0x400000, 1};
  MUST_FAIL(process_vm_readv(getppid(), &here, 1, &there, 1, 0));
  return 0;
}
