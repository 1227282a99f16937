"""Contents of arguments made from a seed, the same bytes on a device and on a host.

The bits are those of the Mersenne twister (Matsumoto, Nishimura, ACM TOMACS 8, 1998) as Python's
`random.Random(seed).randbytes` gives them, little-endian. Then each element's bits are masked:
floats get a magnitude of 0.5 up to 1 and a random sign, so that no term of a sum is small enough to
be missed; int32 and 64-bit integers are 0 to 127, "bool" is 0 or 1; others stay random.
"""

import random
from collections.abc import Iterator

CHUNK_BYTES = 1 << 20
# dtype: bits that stay random, bits that are set.
_MASKS = {
    "float64": (0x800FFFFFFFFFFFFF, 0x3FE0000000000000),
    "float32": (0x807FFFFF, 0x3F000000),
    "float16": (0x83FF, 0x3800),
    "bfloat16": (0x807F, 0x3F00),
    "int64": (0x7F, 0),
    "uint64": (0x7F, 0),
    "int32": (0x7F, 0),
    "bool": (0x01, 0),
}
_ITEM_BYTES = {"float64": 8, "int64": 8, "uint64": 8, "float32": 4, "int32": 4, "bool": 1}


def seeded_chunks(seed: int, dtype: str, size: int) -> Iterator[bytes]:
    """`size` bytes of elements of that dtype, in pieces of 1 MiB."""
    source = random.Random(seed)  # noqa: S311 (data, not a secret)
    for start in range(0, size, CHUNK_BYTES):
        count = min(CHUNK_BYTES, size - start)
        data = source.randbytes(count)
        if dtype in _MASKS:
            # One operation on a long number: the standard library has nothing faster.
            stay, put = _MASKS[dtype]
            item = _ITEM_BYTES.get(dtype, 2)
            bits = int.from_bytes(data, "little")
            bits &= int.from_bytes(stay.to_bytes(item, "little") * (count // item), "little")
            bits |= int.from_bytes(put.to_bytes(item, "little") * (count // item), "little")
            data = bits.to_bytes(count, "little")
        yield data


def seeded_bytes(seed: int, dtype: str, size: int) -> bytes:
    """All of them."""
    return b"".join(seeded_chunks(seed, dtype, size))
