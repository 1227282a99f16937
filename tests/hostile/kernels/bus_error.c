// Reads a file's page that is not in the file.
// expect: KernelCrashedError
#include "hostile.h"
KERNEL(bus_error) {
  int fd = memfd_create(MARK, 0);
  volatile char *page = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
  return *page;
}
