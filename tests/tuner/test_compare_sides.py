"""What `tunefarm compare` builds of a side."""

from tunefarm_compiler import targets
from tunefarm_compiler.pool import BuildPool
from tunefarm_tuner.compare import Side


def test_what_was_built_before_is_not_built_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEFARM_BUILD_CACHE", str(tmp_path))
    side = Side.read("default", "add:n=37")
    first = side.build(targets.resolve("local").to_proto())
    monkeypatch.setattr(BuildPool, "_enqueue", None)
    again = Side.read("default", "add:n=37").build(targets.resolve("local").to_proto())
    assert again.digest == first.digest
