"""A bundle that somebody built: run on a leased device and timed. Nothing checks its answer."""

import os
from pathlib import Path

import numpy as np
from tunefarm import Array, Bundle, Device, Tracker, request_device
from tunefarm.request import Where
from tunefarm_proto.bundle import find_function, schedule_of
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.v1 import bundle_pb2 as bpb

from tunefarm_tuner.bench import Measurement, TimingPlan, as_result, target_text
from tunefarm_tuner.phases import Phases
from tunefarm_tuner.resources import of_function

FILLS = ("seeded", "zeros")


def choose_function(bundle: Bundle, name: str | None) -> bpb.FunctionSignature:
    """The named function, or the only one. Raises: UnknownFunctionError, InvalidRequestError."""
    functions = bundle.manifest.functions
    if name is not None:
        return find_function(bundle.manifest, name)
    if len(functions) != 1:
        names = ", ".join(function.name for function in functions) or "none"
        raise InvalidRequestError("the bundle has not just one function", f"name one of {names}")
    return functions[0]


def filled(device: Device, argument: bpb.ArgumentSignature, fill: str, seed: int) -> Array:
    """An argument's array: floats of [0, 1) where they are to be seeded, else zeros.

    Integers stay 0: they may be indices, or numbers of rounds.
    """
    shape = tuple(argument.shape)
    if fill == "seeded" and argument.dtype in ("float32", "float64", "float16"):
        numbers = np.random.default_rng(seed).random(shape, dtype="float64")
        return device.array(numbers.astype(argument.dtype))
    return device.empty(shape, argument.dtype)


def bench_bundle(
    path: str | os.PathLike[str],
    key: str,
    *,
    function: str | None = None,
    fill: str = "seeded",
    seed: int = 0,
    tracker: str | None = None,
    plan: TimingPlan | None = None,
    priority: int = 0,
    timeout: float | None = None,
    wait_for_key: bool = False,
    where: Where | None = None,
) -> Measurement:
    """Time a function of the bundle in a file on a device of that key, and record it.

    `correct` is None: there is no reference. `fill` is "seeded" or "zeros", see `filled`.
    Raises: TunefarmError of any kind, OSError.
    """
    if fill not in FILLS or seed < 0:
        raise InvalidRequestError(
            f"arguments cannot be filled by {fill!r} with seed {seed}",
            f"known are {', '.join(FILLS)}; a seed is 0 or more",
        )
    bundle = Bundle.read(path)
    signature = choose_function(bundle, function)
    plan, phases = plan or TimingPlan(), Phases()
    waiting = phases.begin("wait")
    with request_device(
        key,
        tracker=tracker,
        priority=priority,
        timeout=timeout,
        wait_for_key=wait_for_key,
        where=where,
        purpose=f"bench {Path(path).name}",
    ) as device:
        waiting.end()
        module = phases.load(device, bundle)
        arrays = [
            filled(device, argument, fill, seed + index)
            for index, argument in enumerate(signature.arguments)
        ]
        with phases.of("time"):
            timing = plan.evaluator(module, signature.name)(*arrays)
        measured = Measurement(
            workload=signature.workload or bundle.manifest.workload,
            device=device.id,
            device_key=device.key,
            target=target_text(module.target),
            emulated=device.emulated,
            emulator=device.facts.emulator,
            timing=timing,
            operations=signature.operations,
            correct=None,
            bundle_digest=bundle.digest,
            schedule=schedule_of(bundle.manifest, module.target, signature.name),
            uploaded_bytes=module.uploaded_bytes,
            phases=phases,
            kernels=of_function(bundle, module.target, signature.name),
        )
        with Tracker(tracker) as connection:
            connection.record(as_result(measured, device))
    return measured
