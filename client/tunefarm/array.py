"""Arrays that live on a device, and what they are made from."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunefarm_proto.bundle import ITEM_BYTES
from tunefarm_proto.errors import ArgumentMismatchError, UnknownHandleError

if TYPE_CHECKING:
    import numpy as np

    from tunefarm.session import Session

_DTYPE_OF_FORMAT = {
    "d": "float64", "f": "float32", "e": "float16", "?": "bool",
    "b": "int8", "B": "uint8", "h": "int16", "H": "uint16", "i": "int32", "I": "uint32",
    "q": "int64", "Q": "uint64", "c": "uint8",
}  # fmt: skip


class Array:
    """A contiguous array in a device's memory. Made by `Device.array` and `Device.empty`."""

    def __init__(
        self, session: "Session", array_id: int, dtype: str, shape: tuple[int, ...]
    ) -> None:
        self._session = session
        self._id = array_id
        self._freed = False
        self.dtype = dtype
        self.shape = shape

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def handle(self, session: "Session") -> int:
        """The array's id in `session`. Raises: UnknownHandleError where it is of another one."""
        if session is not self._session or self._freed:
            why = "was freed" if self._freed else "belongs to another device or session"
            raise UnknownHandleError(f"this array {why}", "make it by device.array(...)")
        return self._id

    def copy_from(self, source: Any) -> None:
        """Overwrite it with data of the same dtype and shape. Raises: ArgumentMismatchError."""
        view, dtype, shape = host_view(source)
        if (dtype, shape) != (self.dtype, self.shape):
            raise ArgumentMismatchError(
                f"cannot copy {dtype}{list(shape)} into {self.dtype}{list(self.shape)}",
                "give an array of the same dtype and shape",
            )
        self._session.write(self.handle(self._session), view)

    def tobytes(self) -> bytes:
        """A copy of its bytes, in C order."""
        return self._session.read(self.handle(self._session))

    def numpy(self) -> "np.ndarray[Any, Any]":
        """A copy as a numpy array. Needs numpy (`pip install tunefarm[host]`)."""
        import numpy as np

        if self.dtype == "bfloat16":
            import ml_dtypes  # noqa: F401 (numpy knows bfloat16 by it)

        return np.frombuffer(bytearray(self.tobytes()), dtype=self.dtype).reshape(self.shape)

    def free(self) -> None:
        """Give its memory back; using it afterwards raises UnknownHandleError."""
        if not self._freed:
            self._session.free(self._id)
            self._freed = True

    def __repr__(self) -> str:
        return f"Array({self.dtype}{list(self.shape)})"


def check_dtype(dtype: str) -> str:
    """The dtype's name. Raises: ArgumentMismatchError, which lists those there are."""
    name = str(dtype)
    if name not in ITEM_BYTES:
        raise ArgumentMismatchError(f"unknown dtype {name!r}", f"known are {', '.join(ITEM_BYTES)}")
    return name


def check_shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    """The shape as a tuple. Raises: ArgumentMismatchError for anything but whole numbers >= 0."""
    axes = (shape,) if isinstance(shape, int) else tuple(shape)
    if not all(hasattr(axis, "__index__") and axis >= 0 for axis in axes):
        raise ArgumentMismatchError(f"{shape!r} is not a shape", "give whole numbers of 0 or more")
    return tuple(int(axis) for axis in axes)


def host_view(source: Any) -> tuple[memoryview, str, tuple[int, ...]]:
    """Bytes, dtype and shape of anything with the buffer protocol, numpy or DLPack.

    What is not contiguous is copied. Raises: ArgumentMismatchError.
    """
    try:
        view = memoryview(source)
    except (TypeError, ValueError, BufferError):
        if not hasattr(source, "__dlpack__"):
            raise ArgumentMismatchError(
                f"cannot make an array from {type(source).__name__}",
                "give numpy, DLPack or anything with the buffer protocol",
            ) from None
        import numpy as np

        if str(getattr(source, "dtype", "")) == "bfloat16" and isinstance(source, np.ndarray):
            bits = np.ascontiguousarray(source).view(np.uint16)
            return memoryview(bits.tobytes()), "bfloat16", tuple(source.shape)
        view = np.ascontiguousarray(np.from_dlpack(source)).data
    format_ = view.format.lstrip("@=<")
    if format_ in ("l", "L"):
        format_ = {("l", 8): "q", ("L", 8): "Q", ("l", 4): "i", ("L", 4): "I"}[
            (format_, view.itemsize)
        ]
    dtype = _DTYPE_OF_FORMAT.get(format_)
    if dtype is None:
        raise ArgumentMismatchError(
            f"cannot make an array of elements {view.format!r}",
            f"convert it to one of {', '.join(ITEM_BYTES)} in the native byte order",
        )
    shape = tuple(view.shape or ())
    data = view if view.c_contiguous else memoryview(view.tobytes())
    if not view.nbytes:
        return memoryview(b""), dtype, shape
    return data.cast("B"), dtype, shape
