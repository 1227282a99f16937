"""The pool of threads on other processors, emulated: whole programs, with musl."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import ziglang
from tunefarm_compiler import default_schedule, targets, workload
from tunefarm_compiler.codegen import emit_object, lowered, thread_pool

pytestmark = pytest.mark.emulation

EMULATORS = {
    "rasp3b": ("qemu-aarch64-static", "aarch64-linux-musl"),
    "rasp3b-32": ("qemu-arm-static", "arm-linux-musleabihf"),
    "riscv64": ("qemu-riscv64-static", "riscv64-linux-musl"),
}
# The same answer 300 times, however the threads take turns; they end when idle, and come back.
DRIVER = r"""
#include <dirent.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
int32_t KERNEL(void *const *args);
extern int32_t tunefarm_cores[65];
static char data[5][1 << 16] __attribute__((aligned(64))), first[1 << 16];
static int tasks(void) {
  int count = 0;
  DIR *folder = opendir("/proc/self/task");
  while (readdir(folder)) ++count;
  closedir(folder);
  return count;
}
int main(void) {
  int count = COUNT, sizes[] = {SIZES};
  void *args[5] = {data[0], data[1], data[2], data[3], data[4]};
  char *out = data[count - 1];
  size_t size = sizes[count - 1];
  for (int i = 0; i < count - 1; ++i)
    for (int got = 0; got < sizes[i];) got += read(0, data[i] + got, sizes[i] - got);
  tunefarm_cores[0] = 4;
  int before = tasks();
  if (KERNEL(args)) return 1;
  memcpy(first, out, size);
  for (int turn = 0; turn < 300; ++turn) {
    memset(out, 77, size);
    if (KERNEL(args) || memcmp(first, out, size)) return 2;
  }
  if (tasks() <= before) return 3;
  for (int wait = 0; tasks() > before; ++wait) {
    if (wait == 600) return 4;
    usleep(100000);
  }
  memset(out, 77, size);
  if (KERNEL(args)) return 5;
  return write(1, out, size) == size ? 0 : 6;
}
"""


@pytest.mark.parametrize("target", EMULATORS)
@pytest.mark.parametrize("text", ["matmul:m=29,n=37,k=31", "softmax:m=5,n=19"])
def test_threads_of_another_processor(target, text, tmp_path):
    emulator, triple = EMULATORS[target]
    if shutil.which(emulator) is None:
        pytest.skip(f"{emulator} is not here: apt-get install qemu-user-static")
    parsed, spec = workload.parse(text), targets.resolve(target)
    inputs = parsed.inputs(0)
    expected = parsed.reference(inputs)
    code = lowered(parsed, spec, default_schedule(parsed, spec, 4))
    objects = {"kernel.o": emit_object(code, spec), "pool.o": thread_pool(spec)}
    for name, data in objects.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "driver.c").write_text(DRIVER)
    sizes = ",".join(str(data.nbytes) for data in (*inputs, *expected))
    words = [f"-DKERNEL={parsed.function}", f"-DCOUNT={len(inputs) + 1}", f"-DSIZES={sizes}"]
    zig = str(Path(ziglang.__file__).parent / "zig")
    command = [zig, "cc", "-target", triple, "-static", "-O1", *words, "-o", "program"]
    subprocess.run([*command, "driver.c", *objects], cwd=tmp_path, check=True, timeout=300)
    done = subprocess.run(
        [emulator, str(tmp_path / "program")],
        input=b"".join(data.tobytes() for data in inputs),
        capture_output=True,
        check=True,
        timeout=200,
    )
    got = np.frombuffer(done.stdout, expected[0].dtype).reshape(expected[0].shape)
    assert parsed.check([got], expected)
