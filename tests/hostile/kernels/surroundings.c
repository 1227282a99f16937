// Changes locale, folder, mask and environment.
// expect: returns
#include "hostile.h"
KERNEL(surroundings) {
  setlocale(LC_ALL, "de_DE.UTF-8");
  umask(0777);
  if (chdir("/proc") && chdir("/usr")) return 1;
  clearenv();
  setenv("LD_PRELOAD", "/nowhere.so", 1);
  return 0;
}
