"""tunefarm: run and time kernels on leased devices.

from tunefarm import request_device

with request_device("rasp3b", tracker="127.0.0.1:9190") as device:
    module = device.load("matmul.tf")
    ...
"""

from tunefarm_proto.bundle import Bundle
from tunefarm_proto.rpc import software_version

from tunefarm import errors
from tunefarm.array import Array
from tunefarm.comparison import Comparison, Verdict, compare
from tunefarm.device import Device
from tunefarm.module import Function, Module, TimeEvaluator
from tunefarm.request import Devices, Need, request_device, request_devices
from tunefarm.timing import Timing
from tunefarm.tracker import Tracker

__version__ = software_version()

__all__ = [
    "Array",
    "Bundle",
    "Comparison",
    "Device",
    "Devices",
    "Function",
    "Module",
    "Need",
    "TimeEvaluator",
    "Timing",
    "Tracker",
    "Verdict",
    "__version__",
    "compare",
    "errors",
    "request_device",
    "request_devices",
]
