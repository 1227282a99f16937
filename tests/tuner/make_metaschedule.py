"""Makes `metaschedule.jsonl.xz`: databases of MetaSchedule, one line for each function.

    python tests/tuner/make_metaschedule.py tests/tuner/metaschedule.jsonl.xz [NAME ...]

Lines of other versions of TVM stay. Needs apache-tvm (0.25 to 0.27 were used) in an environment of
its own. A line holds TVM's version, the case's name, and the two lines that TVM's database has of
it: the module, decoded, and of the record everything but the trace.
"""

import base64
import json
import lzma
import sys
import tempfile
from pathlib import Path

import tvm
from tvm import relax, te, tirx, topi
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.testing import te_workload

TARGET = {"kind": "llvm", "mcpu": "znver4", "num-cores": 1}
T = te.placeholder


def nn():
    """Matrix products."""
    a, b, w = T((8, 16), name="A"), T((16, 24), name="B"), T((24, 16), name="W")
    s = T((16, 16), name="S")
    k = te.reduce_axis((0, 16), name="k")
    bias, wide = T((24,), name="bias"), T((8,), name="wide")
    yield "matmul", a, b, topi.matmul(a, b)
    yield "matmul_tt", a, w, topi.matmul(topi.transpose(a), w, True, True)
    yield "matmul_nt_by_flag", a, w, topi.matmul(a, w, False, True)
    yield "dense", a, w, topi.nn.dense(a, w)
    yield "dense_bias", a, w, bias, topi.nn.dense(a, w, bias)
    yield "dense_bias_relu", a, w, bias, topi.nn.relu(topi.nn.dense(a, w, bias))
    yield "dense_relu", a, w, topi.nn.relu(topi.nn.dense(a, w))
    yield "dense_bias_tanh", a, w, bias, topi.tanh(topi.nn.dense(a, w, bias))
    yield "dense_bias_sigmoid", a, w, bias, topi.sigmoid(topi.nn.dense(a, w, bias))
    # Near: same shapes or almost, other work.
    yield "near_matmul_relu", a, b, topi.nn.relu(topi.matmul(a, b))
    yield "near_leaky", a, w, topi.nn.leaky_relu(topi.nn.dense(a, w), 0.1)
    yield "near_clip", a, w, topi.clip(topi.nn.dense(a, w), 0.0, 6.0)
    yield "near_scaled", a, w, topi.nn.dense(a, w) * tirx.const(2.0, "float32")
    sums = topi.nn.dense(a, w)
    yield "near_silu", a, w, sums * topi.sigmoid(sums)
    c = te.compute((8, 24), lambda i, j: topi.nn.dense(a, w)[i, j] + wide[i], name="C")
    yield "near_bias_of_rows", a, w, wide, c
    yield "near_relu_then_bias", a, w, bias, topi.add(topi.nn.relu(topi.nn.dense(a, w)), bias)
    yield "near_bias_taken_off", a, w, bias, topi.subtract(topi.nn.dense(a, w), bias)
    c = te.compute((8, 24), lambda i, j: te.max(a[i, k] * w[j, k], axis=k), name="C")
    yield "near_largest_product", a, w, c
    c = te.compute((8, 24), lambda i, j: te.sum(a[i, k] + w[j, k], axis=k), name="C")
    yield "near_sum_of_sums", a, w, c
    c = te.compute((8, 24), lambda i, j: te.sum(a[i, k] * w[j, 15 - k], axis=k), name="C")
    yield "near_backwards", a, w, c

    def summed(at):
        return lambda i, j: te.sum(at(i, j), axis=k)

    # Squares: of equal shapes, each another product.
    z = T((16, 16), name="Z")
    for name, at in {
        "nn": lambda i, j: s[i, k] * z[k, j],
        "nt": lambda i, j: s[i, k] * z[j, k],
        "tn": lambda i, j: s[k, i] * z[k, j],
        "tt": lambda i, j: s[k, i] * z[j, k],
    }.items():
        yield f"square_{name}", s, z, te.compute((16, 16), summed(at), name="C")
    c = te.compute((16, 16), lambda i, j: te.sum(s[j, k] * z[i, k], axis=k), name="C")
    yield "square_other_way_round", s, z, c  # arguments in the other order: the same work
    c = te.compute((16, 16), lambda i, j: te.sum(s[i, k] * s[k, j], axis=k), name="C")
    yield "near_with_itself", s, c
    c = te.compute((16, 16), lambda i, j: te.sum(s[i, j] * z[i, k], axis=k), name="C")
    yield "near_sum_of_rows", s, z, c
    v = T((16,), name="v")
    yield "gemv", s, v, te.compute((16,), lambda i: te.sum(s[i, k] * v[k], axis=k), name="C")
    yield "gemv_turned", s, v, te.compute((16,), lambda i: te.sum(s[k, i] * v[k], axis=k))


def batched():
    """Batches of products, and what else has three axes."""
    a, b, t = T((3, 8, 16), name="A"), T((3, 16, 24), name="B"), T((3, 24, 16), name="T")
    w, one = T((24, 16), name="W"), T((1, 24, 16), name="O")
    k = te.reduce_axis((0, 16), name="k")
    yield "batch_matmul", a, t, topi.nn.batch_matmul(a, t)
    yield "batch_matmul_nn", a, b, topi.nn.batch_matmul(a, b, transpose_b=False)
    yield (
        "broadcast_of_one",
        a,
        one,
        te.compute(
            (3, 8, 24),
            lambda b, i, j: te.sum(a[b, i, k] * one[0, j, k], axis=k),
        ),
    )
    linear = te.compute((3, 8, 24), lambda b, i, j: te.sum(a[b, i, k] * w[j, k], axis=k))
    yield "linear_of_three_axes", a, w, linear
    yield "gmm", *te_workload.batch_matmul_nkkm(2, 16, 32, 16)
    yield "near_norm", *te_workload.norm_bmn(1, 16, 16)
    yield "near_transposed_batch", *te_workload.transpose_batch_matmul(1, 16, 4, 8)


def convolutions():
    """Convolutions of both layouts."""
    a, w = T((1, 14, 12, 8), name="A"), T((3, 3, 8, 16), name="W")
    yield "conv", a, w, topi.nn.conv2d_nhwc(a, w, 1, 1, 1)
    yield "conv_stride", a, w, topi.nn.conv2d_nhwc(a, w, (2, 1), (1, 1, 1, 1), 1)
    yield "conv_stride_turned", a, w, topi.nn.conv2d_nhwc(a, w, (1, 2), (1, 1, 1, 1), 1)
    yield "conv_dilation", a, w, topi.nn.conv2d_nhwc(a, w, 1, 2, (2, 1))
    yield "conv_no_padding", a, w, topi.nn.conv2d_nhwc(a, w, 2, 0, 1)
    yield "conv_padding_after", a, w, topi.nn.conv2d_nhwc(a, w, 1, (0, 0, 2, 2), 1)
    yield "conv_padding_split", a, w, topi.nn.conv2d_nhwc(a, w, 1, (2, 0, 0, 2), 1)
    s, u = T((2, 9, 9, 4), name="A"), T((1, 1, 4, 6), name="W")
    yield "conv_pointwise", s, u, topi.nn.conv2d_nhwc(s, u, 1, 0, 1)
    yield "conv_pointwise_stride", s, u, topi.nn.conv2d_nhwc(s, u, 2, 0, 1)
    y, v = T((1, 8, 14, 12), name="A"), T((16, 8, 3, 5), name="W")
    yield "nchw", y, v, topi.nn.conv2d_nchw(y, v, (2, 1), (1, 2), 1)
    yield "nchw_dilation", y, v, topi.nn.conv2d_nchw(y, v, 1, (0, 1, 2, 3), 2)
    bias = T((16,), name="bias")

    def of_channels(x, at):
        return te.compute(x.shape, lambda *i: x[i] + bias[i[at]], name="added")

    c = topi.nn.conv2d_nhwc(a, w, 1, 1, 1)
    yield "conv_bias", a, w, bias, of_channels(c, 3)
    yield "conv_bias_relu", a, w, bias, topi.nn.relu(of_channels(c, 3))
    yield "conv_relu", a, w, topi.nn.relu(c)
    yield (
        "nchw_bias_relu",
        y,
        v,
        bias,
        topi.nn.relu(of_channels(topi.nn.conv2d_nchw(y, v, 1, 1, 1), 1)),
    )
    g, f = T((3, 3, 2, 16), name="W"), T((16, 2, 3, 3), name="W")
    yield "grouped", a, g, topi.nn.group_conv2d_nhwc(a, g, 1, 1, 1, 4)
    yield "grouped_nchw", y, f, topi.nn.group_conv2d_nchw(y, f, 1, 1, 1, 4)
    one, two = T((3, 3, 8, 1), name="W"), T((3, 3, 8, 2), name="W")
    yield "depthwise", a, one, topi.nn.depthwise_conv2d_nhwc(a, one, 2, 1, 1)
    yield "depthwise_multiplier", a, two, topi.nn.depthwise_conv2d_nhwc(a, two, 1, (0, 1), (1, 2))
    yield (
        "depthwise_grouped",
        a,
        (q := T((3, 3, 1, 8))),
        topi.nn.group_conv2d_nhwc(a, q, 1, 1, 1, 8),
    )
    d, e = T((8, 1, 3, 3), name="W"), T((8, 2, 3, 3), name="W")
    yield "depthwise_nchw", y, d, topi.nn.depthwise_conv2d_nchw(y, d, 1, 1, 1)
    yield "depthwise_nchw_multiplier", y, e, topi.nn.depthwise_conv2d_nchw(y, e, 1, 1, 1)
    m, o = T((1, 2, 10, 10, 4), name="A"), T((3, 2, 3, 3, 4, 4), name="W")
    c = topi.nn.conv2d_NCHWc(m, o, 1, 1, 1, "NCHW4c", "NCHW4c")
    yield "nchwc", m, o, c
    z = T((6, 2, 3, 3, 4, 2), name="W")
    yield "near_nchwc_other_blocks", m, z, topi.nn.conv2d_NCHWc(m, z, 1, 1, 1, "NCHW4c", "NCHW2c")
    for name in ("C2D", "GRP", "DIL", "DEP"):
        yield f"te_{name}", *te_workload.CONFIGS[name][0](*te_workload.CONFIGS[name][1][0])
    for name in ("C1D", "C3D", "T2D", "CAP", "CBR"):
        yield f"near_{name}", *te_workload.CONFIGS[name][0](*te_workload.CONFIGS[name][1][0])


def near_convolutions():
    """Of the shapes of convolutions, each with one thing wrong."""
    a, w = T((1, 12, 12, 8), name="A"), T((3, 3, 8, 8), name="W")

    def conv(value=0.0, shift=1, rows=12, weight=lambda r, s, i, o: w[r, s, i, o], way=1, at=None):
        r, s, i = (te.reduce_axis((0, n), name=x) for n, x in ((3, "r"), (3, "s"), (8, "i")))

        def padded(n, y, x, c):
            inside = tirx.all(y >= shift, y < rows + shift, x >= 1, x < 13)
            return tirx.if_then_else(
                inside, a[n, y - shift, x - 1, c], tirx.const(value, "float32")
            )

        wide = te.compute((1, 14, 14, 8), padded, name="P")
        place = at or (lambda y, x: (y * 1, x * 1))

        def each(n, y, x, o):
            yy, xx = place(y, x)
            return te.sum(
                wide[n, yy + way * r + (2 if way < 0 else 0), xx + s, i] * weight(r, s, i, o),
                axis=[r, s, i],
            )

        return te.compute((1, 12, 12, 8), each, name="C")

    yield "conv_by_hand", a, w, conv()
    yield "near_padded_with_ones", a, w, conv(value=1.0)
    yield "near_last_row_left_out", a, w, conv(rows=11)
    yield "near_weights_turned", a, w, conv(weight=lambda r, s, i, o: w[s, r, i, o])
    yield "near_channels_turned", a, w, conv(weight=lambda r, s, i, o: w[r, s, o, i])
    yield "near_true_convolution", a, w, conv(way=-1)
    yield "near_image_turned", a, w, conv(at=lambda y, x: (x, y))
    yield "conv_shifted_padding", a, w, conv(shift=2)  # more above, none below: that is one of ours
    r, s, i = (te.reduce_axis((0, n)) for n in (3, 3, 8))
    c = te.compute(
        (1, 5, 10, 8),
        lambda n, y, x, o: te.sum(a[n, y * 2 + r, x + s, i] * w[r, s, i, o], axis=[r, s, i]),
    )
    yield "conv_stride_of_rows", a, w, c
    c = te.compute(
        (1, 5, 10, 8),
        lambda n, y, x, o: te.sum(a[n, x + r, y * 2 + s, i] * w[r, s, i, o], axis=[r, s, i]),
    )
    yield "near_stride_of_columns_kept_as_rows", a, w, c
    q = T((3, 3, 8, 1), name="W")
    c = te.compute(
        (1, 10, 10, 8),
        lambda n, y, x, o: te.sum(a[n, y + r, x + s, 7 - o] * q[r, s, o, 0], axis=[r, s]),
    )
    yield "near_depthwise_of_another_channel", a, q, c
    t = T((3, 3, 8, 2), name="W")
    c = te.compute(
        (1, 10, 10, 16),
        lambda n, y, x, o: te.sum(a[n, y + r, x + s, o % 8] * t[r, s, o % 8, o // 8], axis=[r, s]),
    )
    yield "near_depthwise_multiplier_outside", a, t, c


def pools():
    """Pooling, and other reductions of windows."""
    a, y = T((1, 14, 12, 8), name="A"), T((1, 8, 14, 12), name="A")

    def pool(kind, size=(3, 3), stride=(2, 2), pad=(1, 1, 1, 1), layout="NHWC", **more):
        x = a if layout == "NHWC" else y
        return x, topi.nn.pool2d(x, size, stride, (1, 1), pad, kind, layout=layout, **more)

    yield "max_pool", *pool("max")
    yield "max_pool_unequal", *pool("max", (3, 2), (1, 2), (1, 0, 0, 1))
    yield "max_pool_nchw", *pool("max", layout="NCHW")
    yield "avg_pool", *pool("avg", count_include_pad=True)
    dilated = topi.nn.pool2d(
        a, (2, 3), (1, 1), (2, 2), (0,) * 4, "avg", layout="NHWC", count_include_pad=True
    )
    yield "avg_pool_dilation", a, dilated
    yield "avg_pool_no_padding", *pool("avg", (2, 2), (2, 2), (0, 0, 0, 0), count_include_pad=False)
    yield "avg_pool_nchw", *pool("avg", (2, 3), (2, 3), (0, 0, 0, 0), "NCHW")
    yield "near_avg_of_what_is_there", *pool("avg", count_include_pad=False)
    yield "global_avg_pool", y, topi.nn.global_pool(y, "avg")
    yield "global_avg_pool_nhwc", a, topi.nn.global_pool(a, "avg", "NHWC")
    for name, dtype in {
        "near_max_pool_of_padding": "float32",
        "max_pool_of_padding_int8": "int8",
    }.items():
        x = T((1, 4, 5, 3), dtype, "A")  # some windows have nothing in them
        yield name, x, topi.nn.pool2d(x, (2, 2), (1, 1), (1, 1), (2,) * 4, "max", layout="NHWC")
    r, s = (te.reduce_axis((0, 2)) for _ in range(2))

    def under(function):
        return lambda n, y, x, c: function(a[n, y * 2 + r, x * 2 + s, c], axis=[r, s])

    for name, function in {"near_sum_pool": te.sum, "near_min_pool": te.min}.items():
        yield name, a, te.compute((1, 7, 6, 8), under(function))
    c = te.compute(
        (1, 7, 6, 8), lambda n, y, x, c: te.max(a[n, y * 2 + r, x * 2 + s, c] * 1.5, axis=[r, s])
    )
    yield "near_max_pool_scaled", a, c
    sums = te.compute(
        (1, 7, 6, 8), lambda n, y, x, c: te.sum(a[n, y * 2 + r, x * 2 + s, c], axis=[r, s])
    )
    yield "near_avg_by_another_number", a, te.compute((1, 7, 6, 8), lambda *i: sums[i] / 3.0)
    wide = te.compute(
        (1, 16, 14, 8),
        lambda n, y, x, c: tirx.if_then_else(
            tirx.all(y >= 1, y < 15, x >= 1, x < 13),
            a[n, y - 1, x - 1, c],
            tirx.const(0.0, "float32"),
        ),
    )
    p, q = (te.reduce_axis((0, 3)) for _ in range(2))
    yield (
        "near_max_pool_padded_with_zeros",
        a,
        te.compute(
            (1, 14, 12, 8), lambda n, y, x, c: te.max(wide[n, y + p, x + q, c], axis=[p, q])
        ),
    )


def in_one_pass(a, gamma, beta, way):
    """Layer norm as topi had it until 0.20: a sum and a sum of squares in one block."""
    m, n = (int(extent) for extent in a.shape)
    k = te.reduce_axis((0, n), name="k")
    pair = te.comm_reducer(
        lambda x, y: (x[0] + y[0], x[1] + y[1]), lambda *t: tuple(tirx.const(0.0, x) for x in t)
    )
    total, squares = te.compute((m,), lambda i: pair((a[i, k], a[i, k] * a[i, k]), axis=k))

    def each(i, j):
        mean = total[i] / tirx.const(float(n), "float32")
        spread = squares[i] / tirx.const(float(n), "float32") + tirx.const(way, "float32") * (
            mean * mean
        )
        scale = tirx.rsqrt(spread + tirx.const(1e-5, "float32"))
        return (a[i, j] - mean) * scale * gamma[j] + beta[j]

    return te.compute((m, n), each, name="C")


def rows():
    """Operators of rows and of elements."""
    a, g, b = T((16, 32), name="A"), T((32,), name="gamma"), T((32,), name="beta")
    c, s = T((2, 8, 32), name="A"), T((32, 32), name="A")
    yield "softmax", a, topi.nn.softmax(a)
    yield "softmax_of_three_axes", c, topi.nn.softmax(c)
    yield "near_softmax_of_columns", s, topi.nn.softmax(s, axis=0)
    yield "near_log_softmax", a, topi.nn.log_softmax(a)
    yield "layer_norm", a, g, b, topi.nn.layer_norm(a, g, b, [1])
    yield "layer_norm_of_three_axes", c, g, b, topi.nn.layer_norm(c, g, b, [2])
    yield "near_layer_norm_epsilon", a, g, b, topi.nn.layer_norm(a, g, b, [1], 1e-6)
    yield "near_layer_norm_of_columns", s, g, b, topi.nn.layer_norm(s, g, b, [0])
    for name, way in {"layer_norm_in_one_pass": -1.0, "near_one_pass_of_other_sign": 1.0}.items():
        yield name, a, g, b, in_one_pass(a, g, b, way)
    yield "near_rms_norm", a, g, topi.nn.rms_norm(a, g, [1])
    yield "sum", a, topi.sum(a, 1)
    yield "sum_of_columns", s, topi.sum(s, 0)
    yield "max", a, topi.max(a, 1)
    yield "min_of_columns", a, topi.min(a, 0)
    yield "near_argmax", a, topi.argmax(a, 1)
    yield "near_prod", a, topi.prod(a, 1)
    yield "relu", c, topi.nn.relu(c)
    yield "tanh", a, topi.tanh(a)
    yield "exp", a, topi.exp(a)
    yield "near_log", a, topi.log(a)
    yield "add", a, (d := T((16, 32), name="B")), topi.add(a, d)
    yield "near_subtract", a, (d := T((16, 32), name="B")), topi.subtract(a, d)
    yield "bias_act", a, g, topi.nn.relu(topi.add(a, g))
    yield "transpose", a, topi.transpose(a)
    yield "transpose_batches", c, topi.transpose(c, (0, 2, 1))
    yield "near_copy", a, topi.identity(a)


def types():
    """Other types of elements."""
    for dtype in ("float16", "bfloat16", "int8"):
        a, b = T((8, 16), dtype, "A"), T((24, 16), dtype, "B")
        x, w = T((1, 10, 10, 8), dtype, "A"), T((3, 3, 8, 4), dtype, "W")
        wide = "int32" if dtype == "int8" else dtype
        yield f"dense_{dtype}", a, b, topi.nn.dense(a, b, out_dtype=wide)
        yield f"conv_{dtype}", x, w, topi.nn.conv2d_nhwc(x, w, 1, 1, 1, wide)
        yield (
            f"max_pool_{dtype}",
            x,
            topi.nn.pool2d(x, (2, 2), (2, 2), (1, 1), (0,) * 4, "max", layout="NHWC"),
        )
        yield (
            f"near_dense_{dtype}_out",
            a,
            b,
            topi.nn.dense(a, b, out_dtype="int16" if dtype == "int8" else "float32"),
        )
    a, g, b = T((16, 32), "float16", "A"), T((32,), "float16", "g"), T((32,), "float16", "b")
    yield "softmax_float16", a, topi.nn.softmax(a)
    yield "layer_norm_float16", a, g, b, topi.nn.layer_norm(a, g, b, [1])
    a, w, b = T((8, 32), "float16", "A"), T((32, 32), "float16", "W"), T((32,), "float16", "b")
    yield "near_bias_of_halves", a, w, b, topi.add(topi.nn.dense(a, w), b)
    a, w, b = T((8, 16), "int8", "A"), T((24, 16), "int8", "W"), T((24,), "int32", "b")
    sums = topi.nn.dense(a, w, out_dtype="int32")
    yield "dense_int8_bias_relu", a, w, b, topi.nn.relu(topi.add(sums, b))
    yield "near_int8_again", a, w, topi.cast(sums, "int8")
    yield "near_uint8", (u := T((8, 16), "uint8", "A")), w, topi.nn.dense(u, w, out_dtype="int32")
    k = te.reduce_axis((0, 16))
    yield (
        "near_products_of_int8",
        a,
        w,
        te.compute((8, 24), lambda i, j: te.sum((a[i, k] * w[j, k]).astype("int32"), axis=k)),
    )
    a, w = T((8, 16), name="A"), T((24, 16), name="W")
    halves = te.compute((8, 16), lambda i, j: a[i, j].astype("float16"))
    yield "near_rounded_on_the_way", a, w, topi.nn.dense(topi.cast(halves, "float32"), w)
    a, w = T((8, 16), "float64", "A"), T((24, 16), "float64", "W")
    yield "near_float64", a, w, topi.nn.dense(a, w)


def fused():
    """What MetaSchedule extracts of a network: operators with what follows them."""

    def network(*shapes):
        def wrap(body):
            builder = relax.BlockBuilder()
            given = [relax.Var(f"x{n}", tensor(shape)) for n, shape in enumerate(shapes)]
            with builder.function("main", given):
                with builder.dataflow():
                    value = builder.emit_output(builder.emit(body(*given)))
                builder.emit_func_output(value)
            return builder.get()

        return wrap

    def tensor(shape):
        kind = getattr(relax, "TensorStructInfo", None) or relax.TensorType
        return kind(shape, "float32")

    op, last = relax.op, {"data_layout": "NHWC", "kernel_layout": "HWIO"}

    def conv(x, w, **more):
        return op.nn.conv2d(x, w, padding=1, **more)

    def linear(x, w):
        return op.matmul(x, op.permute_dims(w))

    cases = {
        "fused_conv_bias_relu": network((1, 14, 14, 8), (3, 3, 8, 16), (1, 1, 1, 16))(
            lambda x, w, b: op.nn.relu(op.add(conv(x, w, **last), b))
        ),
        "fused_nchw_bias_relu": network((1, 8, 14, 14), (16, 8, 3, 3), (1, 16, 1, 1))(
            lambda x, w, b: op.nn.relu(op.add(conv(x, w, strides=2), b))
        ),
        "fused_depthwise_bias": network((1, 14, 14, 8), (3, 3, 1, 8), (1, 1, 1, 8))(
            lambda x, w, b: op.add(conv(x, w, groups=8, **last), b)
        ),
        "near_fused_ohwi": network((1, 14, 14, 8), (8, 3, 3, 8), (1, 1, 1, 8))(
            lambda x, w, b: op.add(conv(x, w, data_layout="NHWC", kernel_layout="OHWI"), b)
        ),
        "fused_linear_gelu": network((1, 16, 32), (64, 32), (64,))(
            lambda x, w, b: op.nn.gelu(op.add(linear(x, w), b))
        ),
        "near_linear_silu": network((1, 16, 32), (64, 32), (64,))(
            lambda x, w, b: op.nn.silu(op.add(linear(x, w), b))
        ),
        "near_linear_residual": network((16, 32), (64, 32), (16, 64))(
            lambda x, w, r: op.add(linear(x, w), r)
        ),
        "fused_attention_scores": network((2, 4, 16, 8), (2, 4, 8, 16))(op.matmul),
        "fused_layer_norm": network((1, 16, 32), (32,), (32,))(
            lambda x, g, b: op.nn.layer_norm(x, g, b, axes=-1)
        ),
        "fused_softmax": network((2, 4, 16, 16))(op.nn.softmax),
        "fused_max_pool": network((1, 8, 14, 14))(
            lambda x: op.nn.max_pool2d(x, (3, 3), (2, 2), (1, 1))
        ),
        "fused_mean": network((1, 8, 7, 7))(lambda x: op.mean(x, [2, 3])),
    }
    steps = [
        relax.transform.FuseTransposeMatmul(),
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ]
    for name, module in cases.items():
        legal = tvm.transform.Sequential(steps)(module)
        tasks = ms.relax_integration.extract_tasks(legal, tvm.target.Target(TARGET))
        for number, task in enumerate(tasks):
            whole = name if len(tasks) == 1 else f"{name}/{task.task_name}"
            yield whole, next(iter(task.mod.functions.values())), number


SETS = (nn, batched, convolutions, near_convolutions, pools, rows, types, fused)


def lines(name, module):
    """What the database has of a module with one record."""
    with tempfile.TemporaryDirectory() as folder:
        database = ms.database.JSONDatabase(f"{folder}/w.json", f"{folder}/r.json")
        held = database.commit_workload(module)
        schedule = tvm.s_tir.Schedule(module)
        target = tvm.target.Target(TARGET)
        arguments = ms.arg_info.ArgInfo.from_entry_func(module, remove_preproc=True)
        record = ms.database.TuningRecord(schedule.trace, held, [1e-3, 2e-3], target, arguments)
        database.commit_tuning_record(record)
        digest, text = json.loads(Path(f"{folder}/w.json").read_text())
        row = json.loads(Path(f"{folder}/r.json").read_text())
    data = base64.b64decode(text)
    row[1][0] = [[], []]
    return json.dumps([tvm.__version__, name, digest, data[8:].decode(), row])


def main():
    path, names, found = Path(sys.argv[1]), sys.argv[2:], []
    if path.exists():
        old = lzma.decompress(path.read_bytes()).decode().splitlines()
        found = [line for line in old if json.loads(line)[0] != tvm.__version__]
    for make in SETS:
        for name, first, *rest in make():
            if names and name not in names:
                continue
            function = first if make is fused else te.create_prim_func([first, *rest])
            found.append(lines(name, tvm.IRModule({"main": function})))
    path.write_bytes(lzma.compress("\n".join(found).encode(), preset=9 | lzma.PRESET_EXTREME))
    print(len(found), path.stat().st_size)


if __name__ == "__main__":
    with tvm.target.Target(TARGET):
        main()
