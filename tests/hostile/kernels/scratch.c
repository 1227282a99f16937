// Writes into the folder of the device server, where its own library lies.
// expect: returns
// needs: landlock
#include "hostile.h"
KERNEL(scratch) {
  char line[512], path[512];
  FILE *maps = fopen("/proc/self/maps", "r");
  while (maps && fgets(line, sizeof line, maps)) {
    char *at = strstr(line, "scratch");
    char *start = strchr(line, '/');
    if (!at || !start) continue;
    at[7] = 0;
    snprintf(path, sizeof path, "%s/" MARK, start);
    MUST_FAIL(open(path, O_CREAT | O_WRONLY, 0600));
    MUST_FAIL(rmdir(start));
    at[-1] = 0;
    MUST_FAIL(open(start, O_RDONLY));
    snprintf(path, sizeof path, "%s/fence", start);
    MUST_FAIL(open(path, O_WRONLY));
    MUST_FAIL(unlink(path));
    return 0;
  }
  return 0;
}
