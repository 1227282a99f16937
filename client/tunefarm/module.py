"""Modules loaded on a device, their functions, and timing them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunefarm_proto.bundle import find_function
from tunefarm_proto.errors import ArgumentMismatchError, InvalidRequestError
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import device_pb2 as dpb

from tunefarm.array import Array
from tunefarm.timing import Timing

if TYPE_CHECKING:
    from tunefarm.session import Session


class Module:
    """A bundle loaded on a device: `module["matmul"](a, b, c)`.

    Attributes: `manifest`, `digest` (sha256 of the bundle), `target` of the library that the device
    chose, `load_s` (seconds it took to load) and `uploaded_bytes` (0 where the device had it).
    """

    def __init__(
        self, session: "Session", digest: str, loaded: dpb.LoadedModule, uploaded_bytes: int
    ) -> None:
        self._session = session
        self.id = loaded.module_id
        self.digest = digest
        self.manifest = bpb.BundleManifest.FromString(loaded.manifest)
        self.target: pb.Target = loaded.target
        self.load_s = loaded.load_s
        self.uploaded_bytes = uploaded_bytes

    def __repr__(self) -> str:
        names, target = ", ".join(self.functions), self.target
        return f"Module({names}; {target.triple} {target.cpu}, bundle {self.digest[:12]})"

    def __getitem__(self, name: str) -> "Function":
        """The function of that name. Raises: UnknownFunctionError, which lists those there are."""
        return Function(self._session, self.id, find_function(self.manifest, name))

    @property
    def functions(self) -> list[str]:
        """Names of its functions."""
        return [function.name for function in self.manifest.functions]

    def time_evaluator(
        self,
        name: str,
        number: int = 0,
        repeat: int = 10,
        min_repeat_ms: float = 20.0,
        timeout: float | None = None,
        *,
        precision: float = 0.0,
        budget: float = 5.0,
        cache: str = "hot",
        cooldown: float = 0.0,
    ) -> "TimeEvaluator":
        """Something to call with arrays that times the function on the device.

        `number` calls a sample (0: calibrated until a sample lasts `min_repeat_ms` milliseconds),
        `repeat` samples, `timeout` seconds of the device's own clock for all of it. With a
        `precision`, as in 0.01, it goes on until the 95% confidence interval of the median reaches
        no further than that to either side, or for `budget` seconds: then the timing says
        `unconverged`. `cache` "cold" flushes the caches before each single call. `cooldown`
        seconds of rest come before each ten samples.
        Raises: UnknownFunctionError, InvalidRequestError.
        """
        if number < 0 or repeat < 1 or min_repeat_ms < 0:
            raise InvalidRequestError(
                f"cannot time with number={number}, repeat={repeat}, min_repeat_ms={min_repeat_ms}",
                "give number >= 0, repeat >= 1, min_repeat_ms >= 0",
            )
        if not 0 <= precision < 1 or budget <= 0 or cache not in ("hot", "cold") or cooldown < 0:
            raise InvalidRequestError(
                f"cannot time with precision={precision}, budget={budget}, cache={cache!r}, "
                f"cooldown={cooldown}",
                'give 0 <= precision < 1, budget > 0, cache "hot" or "cold", cooldown >= 0',
            )
        options = pb.TimingOptions(number=number, repeat=repeat, precision=precision, cache=cache)
        options.budget.FromNanoseconds(round(budget * 1e9))
        options.cooldown.FromNanoseconds(round(cooldown * 1e9))
        options.min_repeat.FromNanoseconds(round(min_repeat_ms * 1e6))
        return TimeEvaluator(self[name], options, timeout)


@dataclass(frozen=True)
class Function:
    """One function of a module on a device."""

    session: "Session"
    module_id: int
    signature: bpb.FunctionSignature

    def request(self, arrays: tuple[Array, ...]) -> dpb.CallFunction:
        """The call as it travels. The device checks number, shapes and dtypes."""
        for index, array in enumerate(arrays):
            if not isinstance(array, Array):
                raise ArgumentMismatchError(
                    f"{self.signature.name}: argument {index} is a {type(array).__name__}, "
                    "not an array on the device",
                    "make it by device.array(...)",
                )
        return dpb.CallFunction(
            module_id=self.module_id,
            function=self.signature.name,
            array_ids=[array.handle(self.session) for array in arrays],
        )

    def __call__(self, *arrays: Array, timeout: float | None = None) -> None:
        """Call it once; `timeout` in seconds of the device's own clock (60 unless given).

        Raises: ArgumentMismatchError, KernelCrashedError, KernelTimeoutError, KernelFailedError.
        """
        self.session.open_lane()
        self.session.request(dpb.SessionRequest(call=self.request(arrays)), timeout)


@dataclass(frozen=True)
class TimeEvaluator:
    """Times a function on its device."""

    function: Function
    options: pb.TimingOptions
    timeout: float | None

    def __call__(self, *arrays: Array, timeout: float | None = None) -> Timing:
        """Time it with these arrays; errors as `Function.__call__`. `timeout` as given before."""
        time = dpb.TimeFunction(call=self.function.request(arrays), options=self.options)
        answer = self.function.session.request(
            dpb.SessionRequest(time=time), self.timeout if timeout is None else timeout
        )
        return Timing.from_proto(answer.timing, self.function.signature.name)
