// Mounts and unmounts.
// expect: returns
// needs: no-capabilities
#include "hostile.h"
KERNEL(root_mount) {
  MUST_FAIL(mount("none", "/usr", "tmpfs", 0, 0));
  MUST_FAIL(umount2("/tmp", MNT_DETACH));
  return 0;
}
