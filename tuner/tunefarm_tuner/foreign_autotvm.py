"""Which workload a task of AutoTVM is, by its name and its arguments.

A task's name is a template and the device it was written for. Those below take weights in one known
layout; others of like names (`.image2d`, `.micro`, winograd) do not, or not always.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tunefarm_compiler import workload
from tunefarm_proto.errors import UnknownWorkloadError

BAD = (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError)
DEVICES = ("x86", "cuda", "gpu", "rocm", "arm_cpu", "mali", "bifrost", "intel_graphics", "generic")
SUMMED = {"int8": "int32"}  # what sums of a type are given in, where that is another


def workload_of(task: str, arguments: Any) -> str:
    """Ours; "" for what is not known to be the same."""
    try:
        template, _, device = task.partition(".")
        read = TEMPLATES.get(template)
        return read(arguments) if read and device in (*DEVICES, "") else ""
    except BAD:
        return ""


def _tensors(arguments: Sequence[Any], out_dtype: Any) -> tuple[list[list[int]], str]:
    """Shapes of the first two, which are of one type whose sums are of `out_dtype`."""
    (word, one, dtype), (other, two, same) = arguments[:2]
    if (word, other, same) != ("TENSOR", "TENSOR", dtype):
        raise ValueError("not two tensors of one type")
    wanted = SUMMED.get(dtype, dtype)
    if out_dtype != wanted and not (out_dtype is None and dtype == "float32"):
        raise ValueError(f"{out_dtype} of {dtype}")
    return [[int(n) for n in one], [int(n) for n in two]], str(dtype)


def _dense(arguments: Sequence[Any]) -> str:
    """Data, weights, bias, type of the output. Packed weights have more axes."""
    bias, out_dtype = [*arguments[2:4], None, None][:2]
    ((m, k), (n, inner)), dtype = _tensors(arguments, out_dtype)
    if inner != k:
        return ""
    sizes = f"m={m},n={n},k={k}"
    if bias is None:
        return _ours(f"matmul:{sizes},tb=1,dtype={dtype}")
    same = list(bias) == ["TENSOR", [n], SUMMED.get(dtype, "float32")]
    return _ours(f"dense:{sizes},dtype={dtype}") if same else ""


def _batch_matmul(arguments: Sequence[Any]) -> str:
    """Two tensors; the output's shape and type and what is transposed, if they are said."""
    out, out_dtype, ta, tb = [*arguments[2:6], None, None, None, None][:4]
    ta, tb = bool(ta), tb is None or bool(tb)
    ((b, *one), (batch, *two)), dtype = _tensors(arguments, out_dtype)
    (m, k), (inner, n) = (one[:2][:: -1 if ta else 1]), (two[:2][:: -1 if tb else 1])
    if (batch, inner) != (b, k) or (out and list(out) != [b, m, n]):
        return ""
    return _ours(f"matmul:m={m},n={n},k={k},b={b},ta={ta:d},tb={tb:d},dtype={dtype}")


def _window(h: int, w: int, r: int, s: int, rest: Sequence[Any]) -> str:
    """Sizes, strides, padding and dilation."""
    stride, padding, dilation = (one if isinstance(one, list) else [one] * 2 for one in rest[:3])
    top, left, bottom, right = padding * 2 if len(padding) == 2 else padding
    sizes = {
        "h": h, "w": w, "r": r, "s": s, "stride": stride[0], "stride_w": stride[1],
        "dilation": dilation[0], "dilation_w": dilation[1], "pad": top, "pad_left": left,
        "pad_bottom": bottom, "pad_right": right,
    }  # fmt: skip
    return ",".join(f"{name}={value}" for name, value in sizes.items())


def _nchw(arguments: Sequence[Any], *, groups: int | None = 1, at: int = 5) -> str:
    """Weights (k, c / groups, r, s); (c, multiplier, r, s) where there are as many groups."""
    ((n, c, h, w), (k, inner, r, s)), dtype = _tensors(arguments, [*arguments, None][at])
    if groups is None:
        if k != c:
            return ""
        k, inner, groups = c * inner, 1, c
    if inner * groups != c:
        return ""
    sizes = f"c={c},k={k},n={n},groups={groups},{_window(h, w, r, s, arguments[2:])}"
    return _ours(f"conv2d:{sizes},layout=nchw,dtype={dtype}")


def _grouped(arguments: Sequence[Any]) -> str:
    return _nchw(arguments, groups=int(arguments[5]), at=6)


def _depthwise_nchw(arguments: Sequence[Any]) -> str:
    return _nchw(arguments, groups=None)


def _nhwc(arguments: Sequence[Any]) -> str:
    """Weights (r, s, c, k)."""
    ((n, h, w, c), (r, s, inner, k)), dtype = _tensors(arguments, [*arguments, None][5])
    sizes = f"c={c},k={k},n={n},{_window(h, w, r, s, arguments[2:])}"
    return _ours(f"conv2d:{sizes},dtype={dtype}") if inner == c else ""


def _depthwise_nhwc(arguments: Sequence[Any]) -> str:
    """Weights (r, s, c, multiplier)."""
    ((n, h, w, c), (r, s, inner, each)), dtype = _tensors(arguments, [*arguments, None][5])
    sizes = f"c={c},n={n},multiplier={each},{_window(h, w, r, s, arguments[2:])}"
    return _ours(f"depthwise_conv2d:{sizes},dtype={dtype}") if inner == c else ""


def _blocked(arguments: Sequence[Any]) -> str:
    """Both in blocks of one size. Where the shapes are plain, blocks are the schedule's choice."""
    (one, two), dtype = _tensors(arguments, [*arguments, None][7])
    (n, blocks, h, w, block), (k, inner, r, s, size, out) = one, two
    wanted = f"NCHW{block}c"
    if (inner, size, out, *arguments[5:7]) != (blocks, block, block, wanted, wanted):
        return ""
    sizes = f"c={blocks * block},k={k * block},n={n},block={block}"
    return _ours(f"conv2d_nchwc:{sizes},{_window(h, w, r, s, arguments[2:])},dtype={dtype}")


def _ours(text: str) -> str:
    """As this version writes it; "" where it knows no such workload."""
    try:
        return str(workload.parse(text))
    except UnknownWorkloadError:
        return ""


TEMPLATES: dict[str, Callable[[Sequence[Any]], str]] = {
    **dict.fromkeys(
        (
            "dense", "dense_nopack", "dense_pack", "dense_small_batch", "dense_large_batch",
            "dense_tensorcore", "dense_int8", "dense_cblas", "dense_mkl", "dense_mkldnn",
            "dense_cublas", "dense_rocblas",
        ),
        _dense,
    ),
    **dict.fromkeys(
        (
            "batch_matmul", "batch_matmul_tensorcore", "batch_matmul_cblas", "batch_matmul_mkl",
            "batch_matmul_cublas", "batch_matmul_rocblas",
        ),
        _batch_matmul,
    ),
    **dict.fromkeys(("conv2d_nchw", "conv2d_nchw_spatial_pack"), _nchw),
    **dict.fromkeys(
        ("conv2d_nhwc", "conv2d_nhwc_spatial_pack", "conv2d_nhwc_tensorcore"), _nhwc
    ),
    **dict.fromkeys(
        ("depthwise_conv2d_nchw", "depthwise_conv2d_nchw_spatial_pack"), _depthwise_nchw
    ),
    "depthwise_conv2d_nhwc": _depthwise_nhwc,
    "group_conv2d_nchw": _grouped,
    "conv2d_NCHWc": _blocked,
}  # fmt: skip
