"""Contents made from seeds: always the same, of the right kind, and what numpy would make."""

import hashlib

import numpy as np
import pytest
from tunefarm_proto.seeded import CHUNK_BYTES, seeded_bytes

FLOATS = ("float64", "float32", "float16")


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_have_a_sign_and_a_magnitude_from_a_half_to_one(dtype):
    values = np.frombuffer(seeded_bytes(1, dtype, 80_000), dtype)
    assert (np.abs(values) >= 0.5).all() and (np.abs(values) < 1).all()
    assert abs((values < 0).mean() - 0.5) < 0.05 and abs(np.abs(values).mean() - 0.75) < 0.01


def test_integers_are_small_or_all_bits():
    assert set(np.frombuffer(seeded_bytes(1, "int32", 40_000), np.int32)) == set(range(128))
    assert set(np.frombuffer(seeded_bytes(1, "int8", 40_000), np.int8)) == set(range(-128, 128))
    assert set(np.frombuffer(seeded_bytes(1, "bool", 1000), np.uint8)) == {0, 1}
    assert np.frombuffer(seeded_bytes(1, "uint32", 40_000), np.uint32).max() > 1 << 31


def test_the_bits_are_those_of_the_mersenne_twister():
    size = CHUNK_BYTES + 20
    bits = np.random.RandomState([7]).randint(0, 1 << 32, size // 4, np.uint32)
    assert seeded_bytes(7, "uint32", size) == bits.tobytes()
    floats = ((bits & 0x807FFFFF) | 0x3F000000).tobytes()
    assert seeded_bytes(7, "float32", size) == floats


def test_they_stay_what_they_are():
    made = hashlib.sha256(seeded_bytes(5, "bfloat16", 1000)).hexdigest()
    assert made == "6f456f6b65c6b86b6c3176dfd0563d4a6230d8588f75aad373c720649be0202c"
    assert seeded_bytes(5, "float32", 0) == b""
    assert seeded_bytes(5, "float32", 8) != seeded_bytes(6, "float32", 8)
