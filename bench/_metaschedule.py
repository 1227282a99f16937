"""TVM MetaSchedule, measured by itself. Run by tuning.py and against_metaschedule.py.

    python bench/_metaschedule.py rate SIZE CANDIDATES WORKERS TARGET
    python bench/_metaschedule.py tune WORKLOAD TRIALS SEED TARGET

Needs apache-tvm 0.27 with apache-tvm-ffi 0.1.14.post1, tornado, cloudpickle, psutil and xgboost, in
an environment of its own. Prints JSON.

rate   candidates a second of LocalBuilder and RPCRunner on a matmul. Candidates are random samples
       of its own space, made before the clock starts; the evaluator is one call a sample, five
       samples, no least duration, as our screening has.
tune   tune_tir with its defaults (evolutionary search, xgboost, LocalBuilder, LocalRunner), then
       one line of samples, seconds of processor time of a call, for each line on stdin.
"""

import json
import sys
import tempfile
import time

import numpy as np
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


def conv2d(
    c: int, h: int, w: int, k: int, r: int, s: int, stride: int, pad: int
) -> tuple["tvm.IRModule", list[tuple[int, ...]]]:
    """Channels last, weights with the outputs' channels innermost: as ours."""
    rows, columns = (h + 2 * pad - r) // stride + 1, (w + 2 * pad - s) // stride + 1
    image = te.placeholder((1, h, w, c), name="A", dtype="float32")
    weights = te.placeholder((r, s, c, k), name="W", dtype="float32")

    def padded(n: "te.Var", y: "te.Var", x: "te.Var", i: "te.Var") -> "tvm.Expr":
        inside = tvm.tirx.all(y >= pad, y < h + pad, x >= pad, x < w + pad)
        zero = tvm.tirx.const(0.0, "float32")
        return tvm.tirx.if_then_else(inside, image[n, y - pad, x - pad, i], zero)

    wide = te.compute((1, h + 2 * pad, w + 2 * pad, c), padded, name="P")
    dy, dx = te.reduce_axis((0, r), name="r"), te.reduce_axis((0, s), name="s")
    i = te.reduce_axis((0, c), name="c")
    out = te.compute(
        (1, rows, columns, k),
        lambda n, y, x, o: te.sum(
            wide[n, y * stride + dy, x * stride + dx, i] * weights[dy, dx, i, o], axis=[dy, dx, i]
        ),
        name="C",
    )
    shapes = [(1, h, w, c), (r, s, c, k), (1, rows, columns, k)]
    return tvm.IRModule({"main": te.create_prim_func([image, weights, out])}), shapes


def module_of(text: str) -> tuple["tvm.IRModule", list[tuple[int, ...]]]:
    """And the shapes of its arguments; a matmul has three equal sizes."""
    name, _, rest = text.partition(":")
    sizes = {key: int(value) for key, _, value in (one.partition("=") for one in rest.split(","))}
    if name == "matmul":
        return matmul(sizes["m"]), [(sizes["m"], sizes["m"])] * 3
    return conv2d(**{"stride": 1, "pad": 0, **sizes})


def tune(text: str, trials: int, seed: int, target: "tvm.target.Target") -> None:
    """Tune, then time the best whenever asked."""
    (module, shapes), began = module_of(text), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        database = ms.tune_tir(
            module, target, folder, max_trials_global=trials, num_trials_per_iter=16, seed=seed,
            runner=ms.runner.LocalRunner(timeout_sec=60), num_tuning_cores=1,
        )  # fmt: skip
        took = time.perf_counter() - began
        best = ms.tir_integration.compile_tir(database, module, target)
        rows = database.get_all_tuning_records()
    recorded = min(float(min(map(float, row.run_secs))) for row in rows if row.run_secs)
    function = tvm.compile(best.mod if hasattr(best, "mod") else best, target=target)["main"]
    rng = np.random.default_rng(0)
    arrays = [tvm.runtime.tensor(rng.random(shape, dtype=np.float32)) for shape in shapes]
    for _ in range(3):
        function(*arrays)
    print(json.dumps({"seconds": took, "recorded_s": recorded, "trials": len(rows)}), flush=True)
    for _ in sys.stdin:
        samples = []
        for _ in range(5):
            started = time.process_time()  # of all of its threads
            function(*arrays)
            samples.append(time.process_time() - started)
        print(json.dumps(samples), flush=True)


def main() -> None:
    if sys.argv[1] == "tune":
        text, trials, seed = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
        tune(text, trials, seed, tvm.target.Target(json.loads(sys.argv[5])))
        return
    size, count, workers, words = int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
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
