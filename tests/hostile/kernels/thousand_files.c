// A thousand files, folders, links, pipes.
// expect: returns
// needs: landlock
#include "hostile.h"
KERNEL(thousand_files) {
  char path[64];
  for (int i = 0; i < 250; ++i) {
    snprintf(path, sizeof path, "/tmp/" MARK "-%d", i);
    MUST_FAIL(open(path, O_CREAT | O_WRONLY, 0600));
    MUST_FAIL(mkdir(path, 0700));
    MUST_FAIL(symlink("/", path));
    MUST_FAIL(mkfifo(path, 0600));
  }
  return 0;
}
