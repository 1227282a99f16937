// Talks to the tracker.
// expect: returns
// needs: empty-network
#include "hostile.h"
KERNEL(tcp_loopback) {
  int ports[] = {9190, 9191, 9200, 22, 80};
  for (int i = 0; i < 5; ++i) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(ports[i])};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST_FAIL(connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&to, sizeof to));
  }
  return 0;
}
