"""Instructions of NVIDIA's GPUs that LLVM text has no plain form for, as inline PTX."""

from collections.abc import Sequence

from tunefarm_compiler.emit import Emitter, Value

GLOBAL = "ptr addrspace(1)"
SHARED = "ptr addrspace(3)"
_KINDS = {16: "v4.b32", 8: "v2.b32", 4: "b32", 2: "u16", 1: "u8"}


def _asm(emit: Emitter, text: str, limits: str, operands: str, result: str = "void") -> str:
    call = f'call {result} asm sideeffect "{text}", "{limits}"({operands})'
    if result == "void":
        emit.line(call)
        return ""
    return emit.value("x", call)


def _words(emit: Emitter, made: str, count: int, dtype: str = "i32") -> list[str]:
    """The parts of what an instruction with several results gave."""
    if count == 1:
        return [made]
    both = f"{{ {', '.join([dtype] * count)} }}"
    return [emit.value("w", f"extractvalue {both} {made}, {n}") for n in range(count)]


def _several(count: int, dtype: str = "i32") -> str:
    return dtype if count == 1 else f"{{ {', '.join([dtype] * count)} }}"


def _slots(first: int, count: int) -> str:
    return ", ".join(f"${n}" for n in range(first, first + count))


def copy_async(
    emit: Emitter, to: tuple[Value, int], source: tuple[str, int], size: int, *,
    whole: str = "", when: str = "",
) -> None:  # fmt: skip
    """Begin to copy 4, 8 or 16 bytes from an address and a number to it to shared memory's.

    Zeros go there instead, and nothing is read, where `whole` is false; nothing at all happens
    where `when` is.
    """
    cache = "cg" if size == 16 else "ca"
    operands, limits = [f"i32 {to[0]}", f"{GLOBAL} {source[0]}"], ["r", "l"]
    given = ""
    if whole:
        ignored = emit.value("z", f"xor i1 {whole}, true")
        operands, limits, given = [*operands, f"i1 {ignored}"], [*limits, "b"], ", $2"
    guard = ""
    if when:
        guard = f"@${len(operands)} "
        operands, limits = [*operands, f"i1 {when}"], [*limits, "b"]
    text = f"{guard}cp.async.{cache}.shared.global [$0+{to[1]}], [$1+{source[1]}], {size}{given};"
    _asm(emit, text, ",".join(limits), ", ".join(operands))


def commit(emit: Emitter) -> None:
    """The copies begun since the last commit are a group."""
    _asm(emit, "cp.async.commit_group;", "", "")


def wait(emit: Emitter, left: int) -> None:
    """Until no more than so many groups of copies, the latest, are under way."""
    _asm(emit, f"cp.async.wait_group {left};", "", "")


def load_global(emit: Emitter, source: str, size: int, when: str = "", at: int = 0) -> list[str]:
    """1, 2 or 4 bytes in a word, or 8 or 16 in several; zeros, unread, where `when` is false."""
    count = max(1, size // 4)
    result = f"{{{_slots(0, count)}}}" if count > 1 else "$0"
    read = f"ld.global.nc.{_KINDS[size]} {result}, [${count}+{at}];"
    limits = ",".join(["=r"] * count) + ",l"
    operands = f"{GLOBAL} {source}"
    if when:
        zeros = "".join(f"mov.b32 ${n}, 0; " for n in range(count))
        read = f"{zeros}@${count + 1} {read}"
        limits, operands = f"{limits},b", f"{operands}, i1 {when}"
    return _words(emit, _asm(emit, read, limits, operands, _several(count)), count)


def store_global(emit: Emitter, to: str, words: Sequence[str], size: int, when: str) -> None:
    """Words to memory where `when` holds: of 1 and 2 bytes the low ones of a word."""
    _asm(emit, *_store("global", ("l", f"{GLOBAL} {to}"), 0, words, size, when))


def store_shared(
    emit: Emitter, to: tuple[Value, int], words: Sequence[str], size: int, when: str
) -> None:
    """The same to shared memory, at a byte and a number that is added to it."""
    _asm(emit, *_store("shared", ("r", f"i32 {to[0]}"), to[1], words, size, when))


def _store(  # noqa: PLR0917
    space: str, where: tuple[str, str], at: int, words: Sequence[str], size: int, when: str
) -> tuple[str, str, str]:
    count = len(words)
    given = f"{{{_slots(1, count)}}}" if count > 1 else "$1"
    guard = f"@${count + 1} " if when else ""
    limits = ",".join([where[0], *["r"] * count, *(["b"] if when else [])])
    operands = [where[1], *(f"i32 {word}" for word in words), *([f"i1 {when}"] if when else [])]
    text = f"{guard}st.{space}.{_KINDS[size]} [$0+{at}], {given};"
    return text, limits, ", ".join(operands)


def load_shared(emit: Emitter, base: Value, at: int, dtype: str, count: int) -> list[str]:
    """Numbers of 4 bytes side by side, aligned as a whole, from byte `base` + `at` on."""
    where = emit.value("a", f"inttoptr i32 {base} to {SHARED}")
    if at:
        where = emit.value("a", f"getelementptr i8, {SHARED} {where}, i32 {at}")
    wide = dtype if count == 1 else f"<{count} x {dtype}>"
    made = emit.value("x", f"load {wide}, {SHARED} {where}, align {4 * count}")
    if count == 1:
        return [made]
    return [emit.value("w", f"extractelement {wide} {made}, i32 {n}") for n in range(count)]


def load_matrices(emit: Emitter, base: Value, at: int, count: int, turned: bool) -> list[str]:
    """`count` squares of 8 lines of 16 bytes; each lane names a line. Turned: 2-byte columns."""
    text = (
        f"ldmatrix.sync.aligned.m8n8.x{count}{'.trans' if turned else ''}.shared.b16 "
        f"{{{_slots(0, count)}}}, [${count}+{at}];"
    )
    limits = ",".join(["=r"] * count) + ",r"
    return _words(emit, _asm(emit, text, limits, f"i32 {base}", _several(count)), count)


def multiply_matrices(
    emit: Emitter, form: str, a: Sequence[str], b: Sequence[str], sums: Sequence[str]
) -> list[str]:
    """One `mma.sync` with sums of float or i32, as in "m16n8k16.row.col.f32.f16.f16.f32"."""
    dtype, letter = ("i32", "r") if form.endswith("s32") else ("float", "f")
    count = len(sums)
    places = [0, count, count + len(a), count + len(a) + len(b)]
    sizes = [count, len(a), len(b), count]
    sets = [f"{{{_slots(*pair)}}}" for pair in zip(places, sizes, strict=True)]
    limits = [f"={letter}"] * count + ["r"] * (len(a) + len(b)) + [letter] * count
    typed = [f"i32 {one}" for one in (*a, *b)] + [f"{dtype} {one}" for one in sums]
    text = f"mma.sync.aligned.{form} {', '.join(sets)};"
    made = emit.value(
        "x", f'call {_several(count, dtype)} asm "{text}", "{",".join(limits)}"({", ".join(typed)})'
    )
    return _words(emit, made, count, dtype)


def group_fence(emit: Emitter) -> None:
    """What was copied to shared memory, and sums in registers, may be used by groups of warps."""
    _asm(emit, "wgmma.fence.sync.aligned;", "", "")


def group_commit(emit: Emitter) -> None:
    """The products begun since the last commit are one group."""
    _asm(emit, "wgmma.commit_group.sync.aligned;", "", "")


def copies_seen(emit: Emitter) -> None:
    """What this thread has in shared memory is seen by tensor cores, after a barrier."""
    _asm(emit, "fence.proxy.async.shared::cta;", "", "")


def group_multiply(
    emit: Emitter, form: str, factors: tuple[str, str], sums: Sequence[str],
    turned: Sequence[bool],
) -> list[str]:  # fmt: skip
    """Begin 64 rows by 2 x len(sums) columns, of descriptors; the sums are there after a wait."""
    count = len(sums)
    limits = ["=f"] * count + [str(n) for n in range(count)] + ["l", "l", "b"]
    typed = [f"float {one}" for one in sums] + [f"i64 {one}" for one in factors] + ["i1 true"]
    signs = ", ".join(str(int(one)) for one in turned)
    text = (
        f"wgmma.mma_async.sync.aligned.m64n{2 * count}k16.f32.{form}.{form} "
        f"{{{_slots(0, count)}}}, ${2 * count}, ${2 * count + 1}, ${2 * count + 2}, 1, 1, {signs};"
    )
    made = _asm(emit, text, ",".join(limits), ", ".join(typed), _several(count, "float"))
    return _words(emit, made, count, "float")


def group_wait(emit: Emitter, left: int, sums: Sequence[str]) -> list[str]:
    """The sums once no more than so many groups of products are under way."""
    count = len(sums)
    limits = ["=f"] * count + [str(n) for n in range(count)]
    typed = [f"float {one}" for one in sums]
    text = f"wgmma.wait_group.sync.aligned {left};"
    made = _asm(emit, text, ",".join(limits), ", ".join(typed), _several(count, "float"))
    return _words(emit, made, count, "float")


def convert(emit: Emitter, form: str, value: str, result: str) -> str:
    """A `cvt` of a float: "rna.tf32.f32" to i32, "rn.bf16.f32" to i16."""
    letter = {"i32": "=r", "i16": "=h"}[result]
    return emit.value("x", f'call {result} asm "cvt.{form} $0, $1;", "{letter},f"(float {value})')


def permute(emit: Emitter, low: str, high: str, picks: int) -> str:
    """A word of 4 of the 8 bytes of two words, numbered from the lowest of the first."""
    return emit.value("x", f"call i32 @llvm.nvvm.prmt(i32 {low}, i32 {high}, i32 {picks})")


def butterfly(emit: Emitter, value: str, dtype: str, distance: int) -> str:
    """What the lane that differs in that bit has."""
    name, kind = ("f32", "float") if dtype == "float32" else ("i32", "i32")
    return emit.value(
        "x",
        f"call {kind} @llvm.nvvm.shfl.sync.bfly.{name}(i32 -1, {kind} {value}, i32 {distance}, "
        "i32 31)",
    )
