// Writes over the heap, and all that can be written.
// expect: KernelCrashedError|KernelTimeoutError|returns
// limit: 1
// later: any
#include "hostile.h"
KERNEL(smash_heap) {
  static unsigned long from[512], to[512];
  int found = 0;
  char line[512];
  FILE *maps = fopen("/proc/self/maps", "r");
  while (maps && found < 512 && fgets(line, sizeof line, maps)) {
    char mode[8];
    if (sscanf(line, "%lx-%lx %7s", &from[found], &to[found], mode) == 3 && mode[1] == 'w' &&
        !strstr(line, "[stack]") && !strstr(line, "kernel"))
      ++found;
  }
  for (int i = 0; i < found; ++i) {
    if ((unsigned long)&from >= from[i] && (unsigned long)&from < to[i]) continue;
    for (unsigned long at = from[i]; at < to[i]; at += 8) *(volatile long *)at = 0x4141414141414141;
  }
  return 0;
}
