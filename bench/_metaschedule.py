"""TVM MetaSchedule's LocalBuilder and RPCRunner on a matmul: candidates a second. Run by tuning.py.

    python bench/_metaschedule.py SIZE CANDIDATES WORKERS TARGET

Needs apache-tvm 0.27 with apache-tvm-ffi 0.1.14.post1, in an environment of its own. Prints JSON.
Candidates are random samples of its own space, made before the clock starts; the evaluator is
one call a sample, five samples, no least duration, as our screening has.
"""

import json
import sys
import time

import tvm
from tvm import te
from tvm.rpc.server import Server
from tvm.rpc.tracker import Tracker
from tvm.s_tir import meta_schedule as ms


def matmul(n: int) -> "tvm.IRModule":
    a = te.placeholder((n, n), name="A", dtype="float32")
    b = te.placeholder((n, n), name="B", dtype="float32")
    k = te.reduce_axis((0, n), name="k")
    c = te.compute((n, n), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")
    return tvm.IRModule({"main": te.create_prim_func([a, b, c])})


def candidates(module: "tvm.IRModule", target: "tvm.target.Target", count: int) -> list:
    """Random samples of the space."""
    context = ms.TuneContext(
        mod=module,
        target=target,
        space_generator="post-order-apply",
        search_strategy=ms.search_strategy.ReplayTrace(max_fail_count=100),
        task_name="matmul",
        num_threads=2,
    )
    context.pre_tuning(count, count)
    found: list = []
    while len(found) < count:
        batch = context.generate_measure_candidates()
        if not batch:
            break
        found += batch
        context.search_strategy.notify_runner_results(
            batch, [ms.runner.RunnerResult([1.0], None)] * len(batch)
        )
    return found[:count]


def main() -> None:
    size, count, workers, words = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    target = tvm.target.Target(json.loads(words))
    found = candidates(matmul(size), target, count)
    tracker = Tracker(port=19190, port_end=19290, silent=True)
    server = Server(
        "127.0.0.1", port=19390, port_end=19490, key="board", silent=True,
        tracker_addr=("127.0.0.1", tracker.port),
    )  # fmt: skip
    config = ms.runner.RPCConfig(
        tracker_host="127.0.0.1",
        tracker_port=tracker.port,
        tracker_key="board",
        session_timeout_sec=300,
    )
    evaluator = ms.runner.EvaluatorConfig(number=1, repeat=5, min_repeat_ms=0)
    builder = ms.builder.LocalBuilder(max_workers=workers, timeout_sec=300)
    runner = ms.runner.RPCRunner(config, evaluator_config=evaluator, max_workers=1)
    took, good, first = 0.0, 0, True
    batch = max(1, count // 4)
    for start in range(0, len(found), batch):
        part = found[start : start + batch]
        began = time.perf_counter()
        built = builder.build([ms.builder.BuilderInput(one.sch.mod, target) for one in part])
        inputs = [
            ms.runner.RunnerInput(result.artifact_path, "cpu", one.args_info)
            for result, one in zip(built, part, strict=True)
            if result.artifact_path
        ]
        results = [future.result() for future in runner.run(inputs)]
        if not first:  # the first batch starts the workers
            took += time.perf_counter() - began
            good += sum(result.run_secs is not None for result in results)
        first = False
    print(json.dumps({"measured": good, "seconds": took, "rate": good / took}))
    server.terminate()
    tracker.terminate()


if __name__ == "__main__":
    main()
