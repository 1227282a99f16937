"""Bundles: what a compiler writes and a device loads.

A bundle is an uncompressed tar: `manifest.json` (a `tunefarm.v1.BundleManifest` as canonical JSON)
first, then one shared library for each target. The same contents give the same bytes, and the
sha256 of those bytes names the bundle.
"""

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from google.protobuf import json_format

from tunefarm_proto.errors import BundleInvalidError, TargetMismatchError, UnknownFunctionError
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb

FORMAT = 1
MANIFEST = "manifest.json"
ITEM_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory: `data` holds the whole archive."""

    data: bytes

    def __repr__(self) -> str:
        return f"<Bundle {self.digest[:16]}, {len(self.data)} bytes>"

    @cached_property
    def digest(self) -> str:
        """sha256 of the archive in hex: the bundle's name."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def manifest(self) -> bpb.BundleManifest:
        """What is in it. Raises: BundleInvalidError."""
        return self._parsed[0]

    @cached_property
    def _parsed(self) -> tuple[bpb.BundleManifest, dict[str, bytes]]:
        return _parse(self.data)

    def library(self, entry: bpb.BundleLibrary) -> bytes:
        """The bytes of one shared library of the manifest."""
        return self._parsed[1][entry.path]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Bundle":
        """Read and check the bundle in a file. Raises: BundleInvalidError, OSError."""
        bundle = cls(Path(path).read_bytes())
        try:
            _ = bundle.manifest
        except BundleInvalidError as error:
            raise BundleInvalidError(f"{path}: {error.message}", error.hint) from None
        return bundle

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the archive to a file, in one step. Raises: OSError."""
        part = Path(f"{os.fspath(path)}.part")
        try:
            part.write_bytes(self.data)
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise type(error)(error.errno, error.strerror, os.fspath(path)) from None


class Library(NamedTuple):
    """A library to be packed; `schedules` are JSON by function, `launches` for GPUs alone."""

    target: pb.Target
    data: bytes
    schedules: Mapping[str, str] = MappingProxyType({})
    launches: Mapping[str, bpb.LaunchPlan] = MappingProxyType({})


def pack(
    manifest: bpb.BundleManifest, libraries: Sequence[Library | tuple[pb.Target, bytes]]
) -> Bundle:
    """Write a bundle; format and libraries of `manifest` are filled in here."""
    full = bpb.BundleManifest()
    full.CopyFrom(manifest)
    full.format = FORMAT
    del full.libraries[:]
    members: list[tuple[str, bytes]] = []
    for index, library in enumerate(Library(*entry) for entry in libraries):
        path = f"lib/{index}.{_suffix(library)}"
        full.libraries.add(
            path=path,
            target=library.target,
            sha256=hashlib.sha256(library.data).hexdigest(),
            size_bytes=len(library.data),
            schedules=library.schedules,
            launches=library.launches,
        )
        members.append((path, library.data))
    as_dict = json_format.MessageToDict(full, preserving_proto_field_name=True)
    text = json.dumps(as_dict, sort_keys=True, separators=(",", ":"))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in [(MANIFEST, text.encode()), *members]:
            info = tarfile.TarInfo(name)  # mtime 0, owner 0, mode 0644: the same bytes each time
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return Bundle(out.getvalue())


def _suffix(library: Library) -> str:
    if architecture(library.target.triple) != "nvptx64":
        return "so"
    return "cubin" if library.data.startswith(b"\x7fELF") else "ptx"


def _parse(data: bytes) -> tuple[bpb.BundleManifest, dict[str, bytes]]:
    hint = "write it again with `tunefarm build`"
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            members = {
                info.name: member.read()
                for info in archive
                if info.isfile() and (member := archive.extractfile(info)) is not None
            }
        manifest = json_format.Parse(
            members[MANIFEST], bpb.BundleManifest(), ignore_unknown_fields=True
        )
    except (tarfile.TarError, KeyError, json_format.ParseError, ValueError, OSError) as error:
        reason = f"no {MANIFEST} in it" if isinstance(error, KeyError) else str(error)
        raise BundleInvalidError(f"not a bundle: {reason}".splitlines()[0], hint) from None
    if not 1 <= manifest.format <= FORMAT:
        raise BundleInvalidError(
            f"bundle format {manifest.format} is not known, this side reads up to {FORMAT}",
            "install the same version of tunefarm on both sides",
        )
    for entry in manifest.libraries:
        library = members.get(entry.path)
        if library is None or hashlib.sha256(library).hexdigest() != entry.sha256:
            raise BundleInvalidError(f"{entry.path} in the bundle is missing or altered", hint)
    for function in manifest.functions:
        for argument in function.arguments:
            if argument.dtype not in ITEM_BYTES:
                raise BundleInvalidError(
                    f"{function.name}: argument {argument.name} has unknown dtype "
                    f"{argument.dtype!r}",
                    f"known are {', '.join(ITEM_BYTES)}",
                )
    return manifest, members


def find_function(manifest: bpb.BundleManifest, name: str) -> bpb.FunctionSignature:
    """The signature of a function. Raises: UnknownFunctionError, which lists those there are."""
    for function in manifest.functions:
        if function.name == name:
            return function
    known = ", ".join(f.name for f in manifest.functions) or "none"
    raise UnknownFunctionError(f"the module has no function {name!r}", f"it has {known}")


def schedule_of(manifest: bpb.BundleManifest, target: pb.Target, function: str) -> str:
    """The schedule of a function in the library for a target, as JSON; "" where none is known."""
    for entry in manifest.libraries:
        if entry.target == target:
            return entry.schedules.get(function, manifest.schedule)
    return manifest.schedule


def choose_library(manifest: bpb.BundleManifest, device: pb.Target) -> bpb.BundleLibrary:
    """The best library that a device can run.

    That is the one that uses most of its features; of several, the one made for its very CPU, then
    the first. Raises: TargetMismatchError, which says what each needs that the device lacks.
    """
    lacks: list[str] = []
    fitting: list[bpb.BundleLibrary] = []
    own = architecture(device.triple)
    for entry in manifest.libraries:
        arch = architecture(entry.target.triple)
        missing = sorted(set(entry.target.features) - set(device.features))
        if arch == own and not missing:
            fitting.append(entry)
            continue
        needs = ", ".join(_told(missing)) if arch == own else f"{_article(arch)} processor"
        lacks.append(f"{entry.target.triple} {entry.target.cpu}".rstrip() + f" needs {needs}")
    if fitting:
        return max(
            fitting, key=lambda one: (len(one.target.features), one.target.cpu == device.cpu)
        )
    raise TargetMismatchError(
        f"this device is {device.triple} {device.cpu}".rstrip()
        + f" and the bundle has nothing for it: {'; '.join(dict.fromkeys(lacks)) or 'it is empty'}",
        "build it for this device's target: `tunefarm build WORKLOAD --target T`",
    )


def _told(missing: Sequence[str]) -> Sequence[str]:
    """Missing features in a few words: of a GPU's levels the last one stands for all."""
    levels = [one for one in missing if one.startswith("sm_")]
    return [max(levels, key=lambda one: int(re.sub(r"\D", "", one)))] if levels else missing


def _article(word: str) -> str:
    return f"{'an' if word[:1] in 'aeiou' or word == 'x86_64' else 'a'} {word}"


def architecture(triple: str) -> str:
    """The processor family of a triple: "x86_64", "aarch64", "armv7", "riscv64", "wasm32"."""
    first = triple.split("-", 1)[0]
    if first.startswith(("armv7", "armv8l")):
        return "armv7"
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(first, first)
