// Leaves in its own folder what is hard to delete: links out of it, pipes, deep and locked folders.
// expect: returns
#include "hostile.h"
KERNEL(folder_traps) {
  close(open("plain", O_CREAT | O_WRONLY, 0));
  close(open("\xff\xfe\n", O_CREAT | O_WRONLY, 0600));
  symlink("/etc", "out");
  symlink("loop", "loop");
  link("/etc/passwd", "hard");
  mkfifo("pipe", 0600);
  mkdir("locked", 0700);
  close(open("locked/in", O_CREAT | O_WRONLY, 0600));
  chmod("locked", 0);
  for (int i = 0; i < 3000 && !mkdir("deep", 0700) && !chdir("deep"); ++i) {}
  return 0;
}
