"""Windows that differ in their directions and sides: their text, their numbers, their kernels."""

import numpy as np
import pytest
from kernel_harness import run
from tunefarm_compiler import build, workload
from tunefarm_proto.errors import UnknownWorkloadError
from tunefarm_tuner.search.transfer import distance

CONV = "conv2d:c=2,h=7,w=6,k=3,r=3,s=2"


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("stride=2,pad=1,dilation=2", "stride=2,pad=1,dilation=2"),
        ("stride=2,stride_w=2,pad=1,pad_right=1,pad_left=1,pad_bottom=1", "stride=2,pad=1"),
        ("stride_w=2,dilation_w=3", "stride_w=2,dilation_w=3"),
        ("stride=2,stride_w=1", "stride=2,stride_w=1"),
        ("pad=1,pad_left=0", "pad=1,pad_left=0"),  # and none on the right
        ("pad=1,pad_left=0,pad_right=0", "pad=1,pad_left=0"),
        ("pad=1,pad_left=0,pad_right=1", "pad=1,pad_left=0,pad_right=1"),
        ("pad_bottom=1,pad_right=1", "pad_bottom=1,pad_right=1"),
        ("pad_left=0", ""),
    ],
)
def test_what_is_written_is_what_differs(given, written):
    parsed = workload.parse(f"{CONV},{given}")
    want = ",".join(filter(None, (CONV, written, "dtype=float32")))
    assert str(parsed) == want
    assert workload.parse(want) == parsed


def by_loops(fields, a, weight):
    """Sums of windows of A (h, w, c), each channel by weight (r, s, c, out), element by element."""
    top, left = fields["pad"], fields["pad_left"]
    rows = fields["h"] + top + fields["pad_bottom"]
    columns = fields["w"] + left + fields["pad_right"]
    reach = [fields[d] * (fields[s] - 1) for d, s in (("dilation", "r"), ("dilation_w", "s"))]
    found = [
        [
            sum(
                a[row - top, column - left] @ weight[i, j]
                for i, row in enumerate(range(y, y + reach[0] + 1, fields["dilation"]))
                for j, column in enumerate(range(x, x + reach[1] + 1, fields["dilation_w"]))
                if 0 <= row - top < fields["h"] and 0 <= column - left < fields["w"]
            )
            + np.zeros(weight.shape[-1])
            for x in range(0, columns - reach[1], fields["stride_w"])
        ]
        for y in range(0, rows - reach[0], fields["stride"])
    ]
    return np.array(found)


UNEVEN = (
    "h=7,w=6,r=3,s=2,stride_w=2",
    "h=7,w=6,r=3,s=2,stride=2,stride_w=1,pad=1,pad_left=0",
    "h=6,w=8,r=3,s=3,stride=2,pad_bottom=1,pad_right=1",
    "h=5,w=9,r=2,s=3,dilation=3,dilation_w=2,pad=2,pad_bottom=0,pad_left=1,pad_right=4",
    "h=9,w=2,r=1,s=4,pad_left=3,pad_right=0,stride=3",
)


@pytest.mark.parametrize("window", UNEVEN)
def test_references_are_what_loops_compute(window):
    rng = np.random.default_rng(0)

    conv = workload.parse(f"conv2d:c=2,k=3,{window}")
    sizes = dict(conv.sizes)
    a = rng.standard_normal((1, sizes["h"], sizes["w"], 2))
    f = rng.standard_normal((sizes["r"], sizes["s"], 2, 3))
    want = by_loops(sizes, a[0], f)
    np.testing.assert_allclose(conv.reference([a, f])[0][0], want, atol=1e-5)
    assert conv.output.outside == (1, *want.shape)
    assert conv.operations == 2 * want.size * sizes["r"] * sizes["s"] * 2

    ones = np.broadcast_to(np.eye(2), (sizes["r"], sizes["s"], 2, 2))
    mean = workload.parse(f"avg_pool2d:c=2,{window}").reference([a])[0][0]
    np.testing.assert_allclose(
        mean, by_loops(sizes, a[0], ones) / (sizes["r"] * sizes["s"]), atol=1e-6
    )

    deep = workload.parse(f"depthwise_conv2d:c=2,multiplier=3,{window}")
    f = rng.standard_normal((sizes["r"], sizes["s"], 2, 3))
    spread = np.zeros((sizes["r"], sizes["s"], 2, 6))
    spread[:, :, 0, :3], spread[:, :, 1, 3:] = f[:, :, 0], f[:, :, 1]
    got = deep.reference([a, f.reshape(*f.shape[:2], 6)])[0][0]
    np.testing.assert_allclose(got, by_loops(sizes, a[0], spread), atol=1e-5)


def test_maxima_look_at_no_padding():
    parsed = workload.parse("max_pool2d:c=1,h=2,w=3,r=2,s=1,pad_bottom=2,pad_left=1,dilation=1")
    a = -np.arange(1.0, 7.0).reshape(1, 2, 3, 1)
    low = -np.inf
    want = [[low, -1, -2, -3, low], [low, -4, -5, -6, low], [low] * 5]
    assert parsed.reference([a])[0][0, :, :, 0].tolist() == want


EDGES = (
    "conv2d:c=1,h=1,w=1,k=1,r=1,s=1",  # one element of each
    "conv2d:c=3,h=1,w=2,k=5,r=1,s=1,pad=3,pad_left=1,bias=1,act=relu",  # windows of padding alone
    "conv2d:c=3,h=2,w=3,k=17,r=2,s=3,dilation=5,dilation_w=4,pad=4,pad_left=8,pad_right=3",
    "conv2d:c=3,h=9,w=11,k=5,r=2,s=1,stride=5,stride_w=4,layout=nchw",  # gaps between windows
    "conv2d:c=8,h=6,w=6,k=8,r=3,s=3,stride=2,pad_bottom=1,pad_right=1,groups=2",  # SAME
    "depthwise_conv2d:c=19,h=6,w=6,r=3,s=3,stride=2,pad_bottom=1,pad_right=1",
    "depthwise_conv2d:c=3,h=5,w=6,r=3,s=2,pad=1,pad_right=0,multiplier=2,bias=1,act=relu",
    "depthwise_conv2d:c=2,h=4,w=5,r=2,s=2,stride_w=2,multiplier=37",
    "depthwise_conv2d:c=4,h=5,w=5,r=3,s=3,pad=1,multiplier=3,dtype=int8",
    "max_pool2d:c=5,h=3,w=2,r=2,s=2,dilation=3,pad=2,pad_bottom=4,dtype=int8",
    "max_pool2d:c=18,h=1,w=1,r=1,s=1,pad=2,pad_right=0",
    "avg_pool2d:c=17,h=6,w=6,r=3,s=2,stride=2,stride_w=3,pad_bottom=1",
    "conv2d_nchwc:c=8,h=6,w=5,k=8,r=3,s=3,block=4,stride=2,stride_w=1,pad_bottom=1,pad_right=1",
    "bit_conv2d:c=32,h=4,w=5,k=7,r=3,s=3,stride_w=2,pad=1,pad_left=2,dilation=2",
)


@pytest.mark.parametrize("text", EDGES)
def test_kernels_at_the_edges(text):
    parsed = workload.parse(text)
    for at_end in (False, True):
        run(build(parsed, "local"), parsed, at_end)


@pytest.mark.parametrize(
    "window", ["r=5,s=3", "r=3,s=5,pad=1,pad_left=0", "r=1,s=2,dilation_w=4", "r=3,s=1,dilation=2"]
)
def test_windows_that_do_not_fit(window):
    with pytest.raises(UnknownWorkloadError, match="no elements"):
        workload.parse(f"max_pool2d:c=1,h=4,w=4,{window}")


def test_what_follows_from_another_field_counts_once_between_shapes():
    def apart(one, other):
        return distance(workload.parse(f"{CONV},{one}"), workload.parse(f"{CONV},{other}"))

    assert apart("pad=0", "pad=1") == pytest.approx(1)
    assert apart("stride=1", "stride=3") == pytest.approx(1)
    assert apart("stride=1", "stride_w=3") == pytest.approx(1)
    assert apart("stride=3", "stride=3,stride_w=1") == pytest.approx(1)
    assert apart("stride=2", "stride_w=2") == pytest.approx(np.log2(3 / 2))
