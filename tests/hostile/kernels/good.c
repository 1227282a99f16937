// What a healthy device answers, with subnormals and rounding in it; not hostile.
#include <stdint.h>
int32_t good(void *const *args) {
  volatile float three = 3, small = 1e-38f, tenth = 0.1f;
  float *x = args[0];
  for (int i = 0; i < 15; ++i) x[i] = (float)i / three;
  x[15] = small * tenth;
  return 0;
}
