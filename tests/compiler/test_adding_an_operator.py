"""The example of docs/adding-an-operator.md works, and is as short as it says."""

import re
from pathlib import Path

from kernel_harness import run
from tunefarm_compiler import build, operators, workload

PAGE = Path(__file__, "../../../docs/adding-an-operator.md").resolve()


def test_the_example_is_an_operator(monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) < 30
    made: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), made)
    with_it = {**operators.OPERATORS, **made["OPERATORS"]}
    monkeypatch.setattr(workload, "OPERATORS", with_it)
    for text in (
        "distances:m=33,n=70,k=13",
        "distances:m=1,n=1,k=1",
        "distances:m=9,n=37,k=5,dtype=bfloat16",
    ):
        parsed = workload.parse(text)
        run(build(parsed, "local"), parsed)
