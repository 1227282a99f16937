// Leaves a message queue with a name.
// expect: returns
// needs: own-ipc
#include "hostile.h"
KERNEL(queue_posix) { mq_open("/" MARK, O_CREAT | O_RDWR, 0600, 0); return 0; }
