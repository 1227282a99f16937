// A shell, by system().
// expect: returns
#include "hostile.h"
KERNEL(system_shell) { return system("setsid sh -c 'sleep 600; : " MARK "' &") * 0; }
