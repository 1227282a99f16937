"""Work that never changes, for a GPU: see `tunefarm_device.anchor`.

"memory" copies within the device what fits into no cache; "compute" is chains of multiplications
and additions in registers. Neither needs anything but the driver.
"""

from collections.abc import Callable

from tunefarm_device.cuda.driver import Driver
from tunefarm_device.launches import Launch

LEAST_COPIED = 64 << 20
THREADS, TURNS, CHAINS = 256, 512, 4


def copied_bytes(cache_bytes: int) -> int:
    """What "memory" copies in a call, of a GPU with such a cache."""
    return max(4 * cache_bytes, LEAST_COPIED)


def _compute() -> str:
    """PTX of the anchor "compute": its answer is written where no thread ever gets."""
    chains = [f"fma.rn.f32 %f{n}, %f{n}, 0f3F7FF972, 0f3A83126F;" for n in range(CHAINS)]
    starts = [f"add.f32 %f{n}, %f{CHAINS}, 0f{0x3F800000 + (n << 20):08X};" for n in range(CHAINS)]
    sums = [f"add.f32 %f0, %f0, %f{n};" for n in range(1, CHAINS)]
    return "\n".join((
        ".version 7.0", ".target sm_75", ".address_size 64",
        ".visible .entry tunefarm_compute(.param .u64 out)", "{",
        f".reg .pred %p<2>; .reg .b32 %r<3>; .reg .f32 %f<{CHAINS + 1}>; .reg .b64 %rd<2>;",
        "ld.param.u64 %rd1, [out];", "cvta.to.global.u64 %rd1, %rd1;",
        "mov.u32 %r1, %tid.x;", f"cvt.rn.f32.u32 %f{CHAINS}, %r1;", *starts,
        "mov.u32 %r2, 0;",
        "again:", *chains, "add.u32 %r2, %r2, 1;", f"setp.lt.u32 %p1, %r2, {TURNS};",
        "@%p1 bra again;", *sums,
        "setp.lt.f32 %p1, %f0, 0f00000000;", "@!%p1 bra over;", "st.global.f32 [%rd1], %f0;",
        "over:", "ret;", "}",
    ))  # fmt: skip


def launches(driver: Driver, name: str) -> list[Callable[[], None]]:
    """One call of an anchor. Raises: DriverError."""
    if name == "memory":
        size = copied_bytes(driver.traits.cache_bytes)
        source, target = driver.allocate(size), driver.allocate(size)
        driver.fill(source, size)
        return [lambda: driver.copy(target, source, size)]
    function = driver.function(driver.load(_compute().encode()), "tunefarm_compute")
    grid = (2 * driver.traits.multiprocessors, 1, 1)
    launch = Launch("tunefarm_compute", grid, (THREADS, 1, 1), 0, (0,))
    return [driver.bound(function, launch, [driver.allocate(4)])]
