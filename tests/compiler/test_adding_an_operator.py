"""The examples of docs/adding-an-operator.md work, and are as short as it says."""

import re
from pathlib import Path

import pytest
from kernel_harness import run
from tunefarm_compiler import build, workload

PAGE = Path(__file__, "../../../docs/adding-an-operator.md").resolve()
TEXTS = {
    "filter1d": ["n=33,k=5", "n=1,k=1", "n=100,k=7,stride=3"],
    "distances": ["m=33,n=70,k=13", "m=1,n=1,k=1", "m=9,n=37,k=5,dtype=bfloat16"],
}


@pytest.mark.parametrize("name", TEXTS)
def test_an_example_is_an_operator(tmp_path, monkeypatch, name):
    codes = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (code,) = (one for one in codes if f"def {name}(" in one)
    assert len([line for line in code.splitlines() if line.strip()]) < 30
    (tmp_path / "own.py").write_text(code)
    monkeypatch.setenv("TUNEFARM_OPERATORS", str(tmp_path / "own.py"))
    for sizes in TEXTS[name]:
        parsed = workload.parse(f"{name}:{sizes}")
        run(build(parsed, "local"), parsed)
