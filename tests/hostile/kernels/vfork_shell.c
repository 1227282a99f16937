// Another program beside it.
// expect: returns
#include "hostile.h"
KERNEL(vfork_shell) {
  pid_t pid;
  char *words[] = {"sh", "-c", "sleep 600; : " MARK, 0};
  posix_spawn(&pid, "/bin/sh", 0, 0, words, environ);
  pid = vfork();
  if (!pid) {
    execv("/bin/sh", words);
    _exit(1);
  }
  return 0;
}
