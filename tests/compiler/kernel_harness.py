"""Kernels run in this process, their buffers between pages that may not be touched."""

import contextlib
import ctypes
import mmap
import tempfile

import numpy as np
from tunefarm_compiler import targets
from tunefarm_compiler.codegen import emit_object, module_text
from tunefarm_compiler.linker import link
from tunefarm_compiler.lower import function
from tunefarm_compiler.schedule import Schedule

PAGE = mmap.PAGESIZE
PROT_NONE = 0
LIBC = ctypes.CDLL(None, use_errno=True)


class Guarded:
    """Values whose last byte, or first, lies against a page that may not be touched."""

    def __init__(self, values, at_end=True):
        room = -(-max(values.nbytes, 1) // PAGE) * PAGE
        self.memory = mmap.mmap(-1, room + 2 * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        for guard in (start, start + PAGE + room):
            LIBC.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), PROT_NONE)
        self.address = start + PAGE + (room - values.nbytes if at_end else 0)
        self.shape, self.dtype = values.shape, values.dtype
        ctypes.memmove(self.address, values.ctypes.data, values.nbytes)

    def values(self):
        count = int(np.prod(self.shape))
        raw = ctypes.string_at(self.address, self.dtype.itemsize * count)
        return np.frombuffer(raw, self.dtype).reshape(self.shape)


def loaded(library: bytes) -> ctypes.CDLL:
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(library)
        file.flush()
        library = ctypes.CDLL(file.name)
    with contextlib.suppress(ValueError):  # as many threads as asked for, on any machine
        (ctypes.c_int32 * 65).in_dll(library, "tunefarm_cores")[0] = 64
    return library


def call(library, name, inputs, output, at_end=True):
    """The output of a kernel, whose inputs must stay as they are."""
    held = [Guarded(data, at_end) for data in (*inputs, output)]
    arguments = (ctypes.c_void_p * len(held))(*(guarded.address for guarded in held))
    assert library[name](arguments) == 0
    for guarded, data in zip(held, inputs, strict=False):
        assert guarded.values().tobytes() == data.tobytes()
    return held[-1].values()


def evaluate(output, *inputs, schedule=None, at_end=True):
    """What a tensor expression gives on this machine, by a schedule."""
    spec = targets.resolve("local")
    schedule = schedule or Schedule((), 1)
    text = module_text(function("kernel", output, schedule, spec), spec)
    library = loaded(link(emit_object(text, spec), spec))
    poison = np.full(output.shape, 77, output.dtype)
    return call(library, "kernel", inputs, poison, at_end)


def run(bundle, parsed, at_end=True, seed=0):
    """Check a workload's kernel against its reference."""
    library = loaded(bundle.library(bundle.manifest.libraries[0]))
    inputs = parsed.inputs(seed)
    (expected,) = parsed.reference(inputs)
    poison = np.full_like(expected, 77)
    got = call(library, parsed.function, inputs, poison, at_end)
    assert parsed.check([got], [expected]), f"{parsed}: off by {np.abs(got - expected).max()}"
