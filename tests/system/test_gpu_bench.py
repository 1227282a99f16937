"""bench/gpu.py, as far as it goes without a GPU."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tunefarm_device.backend import find

BENCH = Path(__file__).parents[2] / "bench"
TORCH = """
import os
from types import SimpleNamespace
__version__ = "2.9"
version = SimpleNamespace(cuda=os.environ.get("CUDA_MODULE_LOADING", "lazy"))
"""


@pytest.fixture
def peers(monkeypatch, tmp_path):
    """The processes that are compared with, over a torch that is none."""
    (tmp_path / "torch.py").write_text(TORCH)
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(sys.path)}")
    spec = importlib.util.spec_from_file_location("bench_gpu", BENCH / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.Peers()
    yield made
    made.close()


def test_what_the_copy_sets_for_its_driver_does_not_reach_torch(peers):
    """Its kernels would all be loaded at the start, which is not how torch runs."""
    assert "lacking" in peers.ask("copy", bytes=1 << 20) or find("cuda").units()
    told = peers.ask("versions")
    assert (told["torch"], told["torch's CUDA"]) == ("2.9", "lazy")


@pytest.mark.slow
@pytest.mark.skipif(bool(find("nullgpu").lacking()), reason=find("nullgpu").lacking())
def test_what_was_tuned_is_kept_beside_the_results(tmp_path):
    words = ["--backend", "nullgpu", "--tiny", "--rounds", "1", "--only", "dtype=float16"]
    command = [sys.executable, BENCH / "gpu.py", *words, "--tune", "1", "--into", tmp_path / "new"]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    lines = (tmp_path / "new" / "gpu-null-gpu-tuning.jsonl").read_text().splitlines()
    assert "matmul:m=64,n=64,k=64,dtype=float16" in lines[0]
    result = json.loads((tmp_path / "new" / "gpu-null-gpu.json").read_text())
    assert {one["peer"] for one in result["rows"]} == {"matmul", "triton"}
    assert all(one["correct"] for one in result["rows"])
