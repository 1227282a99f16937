"""A float16 matmul in Triton as its tutorial writes it, in one configuration, untuned."""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

BLOCK_M, BLOCK_N, BLOCK_K, GROUP = 128, 128, 32, 8
WARPS, STAGES = 4, 3


@triton.jit
def kernel(
    a, b, c, m, n, k, am, ak, bk, bn, cm, cn,
    block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, group: tl.constexpr,
):  # fmt: skip
    """Blocks of C, grouped so that neighbours share rows of A in L2."""
    pid = tl.program_id(0)
    across = tl.cdiv(n, block_n)
    in_group = group * across
    first = pid // in_group * group
    rows = min(tl.cdiv(m, block_m) - first, group)
    at_m = first + pid % in_group % rows
    at_n = pid % in_group // rows
    offsets_m = (at_m * block_m + tl.arange(0, block_m)) % m
    offsets_n = (at_n * block_n + tl.arange(0, block_n)) % n
    offsets_k = tl.arange(0, block_k)
    a_at = a + offsets_m[:, None] * am + offsets_k[None, :] * ak
    b_at = b + offsets_k[:, None] * bk + offsets_n[None, :] * bn
    total = tl.zeros((block_m, block_n), dtype=tl.float32)
    for step in range(tl.cdiv(k, block_k)):
        left = k - step * block_k
        x = tl.load(a_at, mask=offsets_k[None, :] < left, other=0.0)
        y = tl.load(b_at, mask=offsets_k[:, None] < left, other=0.0)
        total = tl.dot(x, y, total)
        a_at += block_k * ak
        b_at += block_k * bk
    rows_c = at_m * block_m + tl.arange(0, block_m)
    columns = at_n * block_n + tl.arange(0, block_n)
    where = c + cm * rows_c[:, None] + cn * columns[None, :]
    mask = (rows_c[:, None] < m) & (columns[None, :] < n)
    tl.store(where, total.to(tl.float16), mask=mask)


def matmul(m: int, n: int, k: int) -> Callable[[], Any]:
    """One call."""
    a, b = (torch.randn(*shape, device="cuda", dtype=torch.float16) for shape in ((m, k), (k, n)))
    c = torch.empty((m, n), device="cuda", dtype=torch.float16)
    grid = (triton.cdiv(m, BLOCK_M) * triton.cdiv(n, BLOCK_N),)
    strides = (*a.stride(), *b.stride(), *c.stride())

    def call() -> Any:
        return kernel[grid](
            a, b, c, m, n, k, *strides, block_m=BLOCK_M, block_n=BLOCK_N, block_k=BLOCK_K,
            group=GROUP, num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip

    call()
    expected = torch.matmul(a, b)
    torch.testing.assert_close(c, expected, atol=1.0, rtol=0.05)
    return call
