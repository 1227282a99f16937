"""Sums of products of narrow numbers, a word at a time, where the processor has an instruction."""

from collections.abc import Callable
from dataclasses import replace

from tunefarm_compiler.emit import SIZES, Emitter, kind
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import (
    Axis,
    Binary,
    Bits,
    Cast,
    Compute,
    Constant,
    Expr,
    Inside,
    Load,
    Reduce,
    Select,
    Tensor,
    walk,
)

GROUP = 4  # 8-bit numbers in a word, and the fewest lanes of such an instruction
BYTES = ("int8", "uint8")


def operands(reduce: Reduce | None) -> tuple[Expr, Expr] | None:
    """The narrow factors of a sum of products in 32 bits; None where it is none."""
    match reduce:
        case Reduce("add", Binary("mul", Cast(left, wide), Cast(right, other))) if wide == other:
            narrow = {"float32": ("bfloat16",), "int32": BYTES}.get(wide, ())
            if left.dtype in narrow and right.dtype in narrow:
                return left, right
    return None


def group_of(reduce: Reduce | None) -> int:
    """How many of its factors a word of 32 bits holds; 1 where they are not narrow."""
    pair = operands(reduce)
    return GROUP if pair is None else 4 // SIZES[pair[0].dtype]


def flipped(reduce: Reduce | None, load: Load) -> int:
    """What a packed operand can be xored with while it is packed, not at each use; 0: none."""
    for side in operands(reduce) or ():
        match side:
            case Bits(Binary("xor", Load() as one, Constant(number))) if one == load:
                return int(number) & 0xFF
    return 0


def available(reduce: Reduce | None, spec: TargetSpec) -> bool:
    """Whether one instruction does all steps of a word of such a sum."""
    pair = operands(reduce)
    if pair is None:
        return False
    signs = {one.dtype for one in pair}
    if signs == {"bfloat16"}:
        return "avx512bf16" in spec.features
    if "avx512vnni" in spec.features:
        return signs == {"int8", "uint8"}
    return "dotprod" in spec.features and len(signs) == 1


def halves(reduce: Reduce | None, spec: TargetSpec) -> tuple[Expr, Expr] | None:
    """The float16 factors of a sum that one instruction takes as they are (fmlal); else None."""
    match reduce:
        case Reduce("add", Binary("mul", left, right)) if "fp16fml" in spec.features:
            pair = (_unwidened(left), _unwidened(right))
            return (pair[0], pair[1]) if pair[0] and pair[1] else None
    return None


def _unwidened(expr: Expr) -> Expr | None:
    match expr:
        case Cast(value, "float32") if value.dtype == "float16":
            return value
        case Select(Inside() as test, Cast(value, "float32"), Constant(0)):
            return Select(test, value, Constant(0, "float16")) if value.dtype == "float16" else None
    return None


def emit_halves(emit: Emitter, total: str, factors: list[str]) -> str:
    """total plus products of four lanes of float16, each exact, rounded once."""
    wide = kind("float16", 8)
    low = [emit.shuffle(one, "poison", range(8), "float16", 4) for one in factors]
    typed = ", ".join(f"{wide} {one}" for one in low)
    name = "llvm.aarch64.neon.fmlal.v4f32.v8f16"
    return emit.value("acc", f"call <4 x float> @{name}(<4 x float> {total}, {typed})")


def as_pairs(reduce: Reduce, apply: Callable[[Expr], Expr]) -> Expr | None:
    """A sum of products of bfloat16 with its casts kept, as vdpbf16ps takes it; None for others."""
    pair = operands(reduce)
    if pair is None or pair[0].dtype != "bfloat16":
        return None
    left, right = (Cast(apply(one), "float32") for one in pair)
    return replace(reduce, body=Binary("mul", left, right))


def unsigned(reduce: Reduce, name: str, axes: tuple[Axis, ...]) -> Expr | None:
    """A sum of signed products with one operand unsigned, as x86's vpdpbusd takes them.

    b + 128 is multiplied instead of b, and 128 times the sum of a is taken off, which is a stage of
    its own. None where that does not suit the sum.
    """
    pair = operands(reduce)
    if pair is None or {one.dtype for one in pair} != {"int8"}:
        return None
    left, right = pair
    if _uses(left, axes[-1]):
        left, right = right, left
    if _uses(left, axes[-1]) or not isinstance(right, Load):
        return None
    shifted = Bits(Binary("xor", right, Constant(-128, "int8")), "uint8")
    products = replace(reduce, body=Binary("mul", Cast(left, "int32"), Cast(shifted, "int32")))
    rows = tuple(axis for axis in axes if _uses(left, axis))
    if not rows:
        return None
    total = replace(reduce, body=Cast(left, "int32"))
    sums = Tensor(f"{name}.rows", tuple(a.extent for a in rows), "int32", Compute(rows, total))
    return products - sums[rows] * 128


def _uses(expr: Expr, axis: Axis) -> bool:
    loads = [one for one in walk(expr) if isinstance(one, Load)]
    return any(axis.name in dict(index.terms) for load in loads for index in load.indices)


def emit_dot(  # noqa: PLR0917
    emit: Emitter, spec: TargetSpec, total: str, words: tuple[str, str], dtypes: tuple[str, str],
    lanes: int,
) -> str:  # fmt: skip
    """total plus the products of a word in every lane: of four 8-bit numbers, or two bfloat16."""
    bfloat = dtypes[0] == "bfloat16"
    sums = "float32" if bfloat else "int32"
    if lanes > (spec.lanes if spec.arch == "x86_64" else 4):  # no instruction is so wide
        half, parts = lanes // 2, list[str]()
        for begin in (0, half):
            one = emit.part(total, begin, half, sums, lanes)
            two, three = (emit.part(word, begin, half, "int32", lanes) for word in words)
            parts.append(emit_dot(emit, spec, one, (two, three), dtypes, half))
        return emit.shuffle(parts[0], parts[1], range(lanes), sums, half)
    if bfloat:
        name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}"
    elif "avx512vnni" in spec.features:
        name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
        words = words if dtypes[0] == "uint8" else words[::-1]
    else:
        name = f"llvm.aarch64.neon.{'s' if dtypes[0] == 'int8' else 'u'}dot.v4i32.v16i8"
    wide, before = kind(sums, lanes), kind("int32", lanes)
    narrow = f"<{2 * lanes} x bfloat>" if bfloat else kind("int8", GROUP * lanes)
    parts = [emit.value("q", f"bitcast {before} {word} to {narrow}") for word in words]
    typed = ", ".join(f"{narrow} {part}" for part in parts)
    return emit.value("acc", f"call {wide} @{name}({wide} {total}, {typed})")
