// Leaves shared memory with a name.
// expect: returns
// needs: landlock
#include "hostile.h"
KERNEL(shm_posix) { MUST_FAIL(shm_open("/" MARK, O_CREAT | O_RDWR, 0600)); return 0; }
