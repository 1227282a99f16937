// Closes every descriptor but the runner's socket, which it half shuts.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(close_range_) { shutdown(the_socket(), SHUT_WR); return 0; }
