// The kernel's other doors.
// expect: returns
// needs: seccomp
#include "hostile.h"
KERNEL(root_doors) {
  char buffer[4096] = {0};
  MUST_FAIL(syscall(SYS_bpf, 0, buffer, 128));
  MUST_FAIL(syscall(SYS_io_uring_setup, 8, buffer));
  MUST_FAIL(syscall(SYS_userfaultfd, 1));
  MUST_FAIL(syscall(SYS_perf_event_open, buffer, 0, -1, -1, 0));
  MUST_FAIL(syscall(SYS_keyctl, 0, -3, 1));
  MUST_FAIL(syscall(SYS_fanotify_init, 0, 0));
  MUST_FAIL(syscall(SYS_pidfd_open, getppid(), 0));
  MUST_FAIL(syscall(SYS_open_by_handle_at, -100, buffer, 0));
  return 0;
}
