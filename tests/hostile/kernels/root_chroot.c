// Takes another root.
// expect: returns
// needs: no-capabilities
#include "hostile.h"
KERNEL(root_chroot) { MUST_FAIL(chroot("/usr")); return 0; }
