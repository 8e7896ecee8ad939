"""Random nets: what containers, graphs and recurrent modules make of layers, up to a depth, with inputs that fit.

A net is a Lua expression. Shapes are followed through it: ``("vector", n, f)`` a batch of vectors, ``("image", n, c, h,
w)``, ``("sequence", t, n, f)`` a tensor of steps, ``("steps", t, n, f)`` a list of them. The helpers of ``runner.lua``
(``seq``, ``add``, ``twin``, ``graph``) keep the expressions short.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from instances import Instance

#: layers that overwrite their input; behind layers that need it no more
IN_PLACE = ("nn.ReLU(true)", "nn.LeakyReLU(0.1, true)", "nn.MulConstant(0.5, true)", "nn.Dropout(0.4, false, true)")
Shape = tuple[Any, ...]
Draw = st.DrawFn
Net = tuple[str, Shape]

#: what is done to a net before it is saved
PREPARED = (
    "m",
    "used(m, x)",
    "used(m, x):clearState()",
    "flat(m)",
    "m:float():double()",
    "there_and_back(m)",
    "m:clone()",
    "used(m, x):sharedClone()",
    "nn.Serial(m)",
    "nn.Serial(m):mediumSerial()",
    "nn.Serial(used(m, x)):heavySerial()",
)


@st.composite
def composed(draw: Draw) -> Instance:
    """A random net with its input."""
    n = draw(st.integers(2, 3))
    kind = draw(st.sampled_from(["vector", "vector", "image", "sequence", "steps"]))
    sizes = {"vector": (n, 4), "image": (n, 2, 6, 5), "sequence": (3, n, 4), "steps": (3, n, 4)}[kind]
    depth = draw(st.integers(1, 4))
    lua, _ = net(draw, (kind, *sizes), depth)
    prepared = draw(st.sampled_from(PREPARED))
    if "graph(" in lua:  # Torch7 then runs nodes that evaluate() and zeroGradParameters() do not reach: docs/nngraph.md
        lua = lua.replace("nn.Serial(", "nn.Decorator(")
        prepared = "m" if "Serial" in prepared else prepared
    seed = draw(st.integers(0, 999))
    generator = torch.Generator().manual_seed(seed)
    shape = sizes[1:] if kind == "steps" else sizes
    xs = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3 if kind == "steps" else 1)]
    return Instance(
        lua,
        xs if kind == "steps" else xs[0],
        None,
        draw(st.sampled_from(["double", "double", "double", "float"])),
        draw(st.sampled_from(["train", "eval"])),
        seed=seed,
        prepared=prepared,
    )


def net(draw: Draw, shape: Shape, depth: int) -> Net:
    """A net for inputs of a shape; of depth 0 one layer."""
    kind = shape[0]
    if depth == 0:
        return draw(st.sampled_from(LAYERS[kind]))(draw, shape)
    parts: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        choices = CONTAINERS[shape[0]] if depth > 1 and draw(st.booleans()) else LAYERS[shape[0]]
        lua, shape = draw(st.sampled_from(choices))(
            draw, shape, *([depth - 1] if choices is CONTAINERS[shape[0]] else [])
        )
        parts.append(lua)
    return f"seq({', '.join(parts)})", shape


def keeping(draw: Draw, shape: Shape, depth: int) -> str:
    """A net for vectors that keeps their number of features."""
    lua, out = net(draw, shape, depth)
    if out[0] != "vector":
        return "nn.Tanh()"
    return lua if out == shape else f"seq({lua}, nn.Linear({out[2]}, {shape[2]}))"


def vectors(draw: Draw, shape: Shape, depth: int) -> Net:
    """A net that makes vectors of vectors."""
    lua, out = net(draw, shape, depth)
    return (lua, out) if out[0] == "vector" else (f"nn.Linear({shape[2]}, 2)", (*shape[:2], 2))


# ---------------------------------------------------------------------- layers
def same(*constructors: str) -> Callable[[Draw, Shape], Net]:
    """Layers that keep the shape; ``F`` is the number of features or planes."""

    def layer(draw: Draw, shape: Shape) -> Net:
        features = shape[2] if shape[0] in ("vector", "image") else shape[3]
        return draw(st.sampled_from(constructors)).replace("F", str(features)), shape

    return layer


def linear(draw: Draw, shape: Shape) -> Net:
    k = draw(st.integers(1, 4))
    made = ["nn.Linear({}, {})", "nn.Linear({}, {}, false)", "nn.WeightNorm(nn.Linear({}, {}))", "nn.Maxout({}, {}, 2)"]
    made += [
        "nn.LinearNoBias({}, {})",
        "nn.Cosine({}, {})",
        "nn.Euclidean({}, {})",
        "nn.MaskZero(nn.Linear({}, {}), 1)",
    ]
    made += [f"seq(nn.Linear({{}}, {{}}), {in_place})" for in_place in IN_PLACE]
    return draw(st.sampled_from(made)).format(shape[2], k), (*shape[:2], k)


def narrowed(draw: Draw, shape: Shape) -> Net:
    k = draw(st.integers(1, shape[2]))
    return f"nn.Narrow(2, {shape[2] - k + 1}, {k})", (*shape[:2], k)


def padded(draw: Draw, shape: Shape) -> Net:
    return f"nn.Padding(2, {draw(st.sampled_from([-1, 1]))})", (*shape[:2], shape[2] + 1)


def replicated(draw: Draw, shape: Shape) -> Net:
    return "nn.Replicate(2, 1)", ("sequence", 2, *shape[1:])


def repeated(draw: Draw, shape: Shape) -> Net:
    f = shape[2]
    step = draw(st.sampled_from(["nn.FastLSTM({0}, {0})", "nn.Recursor(nn.Linear({0}, {0}))", "nn.GRU({0}, {0})"]))
    return f"nn.Repeater({step.format(f)}, 2)", ("steps", 2, *shape[1:])


def convolution(draw: Draw, shape: Shape) -> Net:
    _, n, c, h, w = shape
    k, size = draw(st.integers(1, 3)), min(h, w, draw(st.integers(1, 3)))
    made = [f"nn.{module}({c}, {k}, {size}, {size})" for module in ("SpatialConvolution", "SpatialConvolutionMM")]
    made += [f"seq({made[0]}, {in_place})" for in_place in IN_PLACE]
    return draw(st.sampled_from(made)), ("image", n, k, h - size + 1, w - size + 1)


def pooling(draw: Draw, shape: Shape) -> Net:
    _, n, c, h, w = shape
    if min(h, w) < 2:
        return "nn.Identity()", shape
    module = draw(st.sampled_from(["SpatialMaxPooling", "SpatialAveragePooling"]))
    return f"nn.{module}(2, 2, 2, 2)", ("image", n, c, h // 2, w // 2)


def larger(draw: Draw, shape: Shape) -> Net:
    _, n, c, h, w = shape
    if max(h, w) > 6:
        return "nn.Tanh()", shape
    if draw(st.booleans()):
        return "nn.SpatialUpSamplingNearest(2)", ("image", n, c, 2 * h, 2 * w)
    return "nn.SpatialZeroPadding(1, 0, 0, 1)", ("image", n, c, h + 1, w + 1)


def flattened(draw: Draw, shape: Shape) -> Net:
    _, n, c, h, w = shape
    made = [
        f"nn.View({c * h * w})",
        "nn.View(-1):setNumInputDims(3)",
        f"nn.Reshape({c * h * w}, true)",
        "nn.Collapse(3)",
    ]
    return draw(st.sampled_from(made)), ("vector", n, c * h * w)


def one_step(draw: Draw, shape: Shape) -> Net:
    return draw(st.sampled_from(["nn.Select(1, -1)", "nn.Mean(1)", "nn.Sum(1)", "nn.Max(1)"])), ("vector", *shape[2:])


def recurrent_sequence(draw: Draw, shape: Shape) -> Net:
    f, k = shape[3], draw(st.integers(1, 3))
    made = ["nn.SeqLSTM({}, {})", "nn.SeqGRU({}, {})", "nn.SeqBRNN({}, {})", "nn.Bottle(nn.Linear({}, {}))"]
    return draw(st.sampled_from(made)).format(f, k), (*shape[:3], k)


def split(draw: Draw, shape: Shape) -> Net:
    return "nn.SplitTable(1)", ("steps", *shape[1:])


def joined(draw: Draw, shape: Shape) -> Net:
    _, t, n, f = shape
    return draw(
        st.sampled_from(
            [
                ("nn.JoinTable(2)", ("vector", n, t * f)),
                ("nn.JoinTable(1, 1)", ("vector", n, t * f)),
                ("nn.CAddTable()", ("vector", n, f)),
                ("nn.CMulTable()", ("vector", n, f)),
                ("nn.SelectTable(-1)", ("vector", n, f)),
            ]
        )
    )


def bidirectional(draw: Draw, shape: Shape) -> Net:
    f, k = shape[3], draw(st.integers(1, 3))
    made = ["nn.BiSequencer(nn.LSTM({0}, {1}))", "nn.BiSequencer(nn.FastLSTM({0}, {1}), nn.GRU({0}, {1}))"]
    return draw(st.sampled_from(made)).format(f, k), (*shape[:3], 2 * k)


LAYERS: dict[str, list[Callable[[Draw, Shape], Net]]] = {
    "vector": [
        linear,
        linear,
        same("nn.Tanh()", "nn.Sigmoid()", "nn.ReLU()", "nn.ELU()", "nn.PReLU()", "nn.LogSoftMax()"),
        same("nn.Dropout(0.4)", "nn.Identity()", "nn.MulConstant(0.5)", "nn.AddConstant(1)", "nn.Copy()"),
        same("nn.BatchNormalization(F)", "nn.CMul(F)", "nn.Add(F)", "nn.Mul()", "nn.Normalize(2)", "nn.View(-1, F)"),
        same("nn.WhiteNoise(0, 0.1)", "nn.Constant(torch.ones(F), 1)", "nn.GradientReversal()", "nn.Reshape(F)"),
        narrowed,
        padded,
        replicated,
        repeated,
    ],
    "image": [
        convolution,
        convolution,
        pooling,
        larger,
        flattened,
        same(
            "nn.ReLU(true)",
            "nn.Tanh()",
            "nn.SpatialBatchNormalization(F)",
            "nn.SpatialCrossMapLRN(3)",
            "nn.Dropout(0.3)",
        ),
        same("nn.SpatialSoftMax()", "nn.LeakyReLU(0.1)", "nn.PReLU(F)", "nn.CMul(1, F, 1, 1)", "nn.Contiguous()"),
    ],
    "sequence": [
        one_step,
        recurrent_sequence,
        recurrent_sequence,
        split,
        same("nn.Tanh()", "nn.SeqReverseSequence(1)", "nn.Dropout(0.2)", "nn.MaskZero(nn.Tanh(), 2)", "nn.ReLU()"),
    ],
    "steps": [
        joined,
        joined,
        bidirectional,
        same("nn.ReverseTable()", "nn.Identity()", "nn.Sequencer(nn.Dropout(0.3))"),
    ],
}


# ---------------------------------------------------------------------- containers
def branches(draw: Draw, shape: Shape, depth: int) -> Net:
    """Concat: the branches side by side."""
    parts = [vectors(draw, shape, depth) for _ in range(draw(st.integers(2, 3)))]
    sides = ", ".join(lua for lua, _ in parts)
    width = sum(out[2] for _, out in parts)
    return draw(
        st.sampled_from([f"add(nn.Concat(2), {sides})", f"seq(add(nn.ConcatTable(), {sides}), nn.JoinTable(2))"])
    ), (*shape[:2], width)


def residual(draw: Draw, shape: Shape, depth: int) -> Net:
    """Branches of the input's shape, added or multiplied."""
    other = draw(st.sampled_from(["nn.Identity()", "nn.Tanh()"]))
    join = draw(st.sampled_from(["nn.CAddTable()", "nn.CSubTable()", "nn.CMulTable()"]))
    return f"seq(add(nn.ConcatTable(), {keeping(draw, shape, depth)}, {other}), {join})", shape


def parallel(draw: Draw, shape: Shape, depth: int) -> Net:
    """Another module for each of two tensors."""
    a, b = vectors(draw, shape, depth), vectors(draw, shape, depth)
    table = f"add(nn.ParallelTable(), {a[0]}, {b[0]})"
    doubled = draw(
        st.sampled_from(
            ["add(nn.ConcatTable(), nn.Identity(), nn.Tanh())", "add(nn.ConcatTable(), nn.Copy(), nn.Exp())"]
        )
    )
    return f"seq({doubled}, {table}, nn.JoinTable(1, 1))", (*shape[:2], a[1][2] + b[1][2])


def mapped(draw: Draw, shape: Shape, depth: int) -> Net:
    """The same module for all of a list."""
    a = vectors(draw, shape, depth)
    return f"seq(add(nn.ConcatTable(), nn.Identity(), nn.Sigmoid()), nn.MapTable({a[0]}), nn.CAddTable())", a[1]


def mixture(draw: Draw, shape: Shape, depth: int) -> Net:
    """Experts and a gater."""
    gater = f"seq(nn.Linear({shape[2]}, 2), nn.SoftMax())"
    experts = f"add(nn.ConcatTable(), {keeping(draw, shape, depth)}, {keeping(draw, shape, depth)})"
    return f"seq(add(nn.ConcatTable(), {gater}, {experts}), nn.MixtureTable())", shape


def twins(draw: Draw, shape: Shape, depth: int) -> Net:
    """A module and a clone that shares its parameters, one after the other or side by side."""
    part = keeping(draw, shape, depth)
    made = ["seq(twin({}))", "seq(add(nn.ConcatTable(), twin({})), nn.CAddTable())", "seq(twin({}, 'weight', 'bias'))"]
    return draw(st.sampled_from(made)).format(part), shape


def decorated(draw: Draw, shape: Shape, depth: int) -> Net:
    part, out = vectors(draw, shape, depth)
    made = ["nn.Decorator({})", "nn.NaN({})", "nn.DontCast({}, true, true)", "nn.Serial({})", "nn.Profile({}, 100)"]
    return draw(st.sampled_from(made)).format(part), out


def recursor(draw: Draw, shape: Shape, depth: int) -> Net:
    """A recurrent module at its first step."""
    return step(draw, shape, depth)


def graph(draw: Draw, shape: Shape, depth: int) -> Net:
    """A graph of nngraph: each node takes one or two of those before it."""
    shapes = [shape]
    nodes: list[str] = []
    unused = {0}
    for _ in range(draw(st.integers(1, 3))):
        i = draw(st.integers(0, len(shapes) - 1))
        equal = [j for j, s in enumerate(shapes) if s == shapes[i] and j != i]
        if equal and draw(st.booleans()):
            j = draw(st.sampled_from(equal))
            join = draw(st.sampled_from(["nn.CAddTable()", "nn.CMulTable()", "nn.JoinTable(2)"]))
            nodes.append(f"{{{join}, {i + 1}, {j + 1}}}")
            shapes.append(shapes[i] if "Join" not in join else (*shape[:2], 2 * shapes[i][2]))
            unused -= {i, j}
        else:
            lua, out = vectors(draw, shapes[i], depth)
            nodes.append(f"{{{lua}, {i + 1}}}")
            shapes.append(out)
            unused -= {i}
        unused.add(len(shapes) - 1)
    ends = sorted(unused)
    if len(ends) > 1:
        nodes.append(f"{{nn.JoinTable(2), {', '.join(str(i + 1) for i in ends)}}}")
        return f"graph({', '.join(nodes)})", (*shape[:2], sum(shapes[i][2] for i in ends))
    return f"graph({', '.join(nodes)})", shapes[ends[0]]


def image_branches(draw: Draw, shape: Shape, depth: int) -> Net:
    _, n, c, h, w = shape
    one, three = f"nn.SpatialConvolution({c}, 2, 1, 1)", f"nn.SpatialConvolution({c}, 1, 3, 3, 1, 1, 1, 1)"
    made = [
        (f"add(nn.Concat(2), {one}, {three})", 3),
        (f"add(nn.DepthConcat(2), {one}, nn.SpatialConvolution({c}, 2, 1, 1, 2, 2))", 4),
        (f"seq(add(nn.ConcatTable(), {one}, seq({one}, nn.Tanh())), nn.CAddTable())", 2),
        (f"nn.Inception{{inputSize={c},kernelSize={{3}},kernelStride={{1}},outputSize={{2}},reduceSize={{1,1,1}}}}", 4),
        (f"nn.Serial(seq({one}, nn.ReLU(true)))", 2),
    ]
    lua, planes = draw(st.sampled_from(made))
    return lua, ("image", n, planes, h, w)


def step(draw: Draw, shape: Shape, depth: int) -> Net:
    """What a Sequencer repeats, for vectors."""
    f, k = shape[2], draw(st.integers(1, 3))
    out = (*shape[:2], k)
    made = [
        "nn.LSTM({0}, {1})",
        "nn.FastLSTM({0}, {1})",
        "nn.GRU({0}, {1})",
        "nn.Recurrent({1}, nn.Linear({0}, {1}), nn.Linear({1}, {1}), nn.Tanh())",
        "nn.Recurrence(seq(nn.JoinTable(1, 1), nn.Linear({0} + {1}, {1}), nn.Tanh()), {1}, 1)",
        "nn.Recursor(seq(nn.Linear({0}, {1}), nn.FastLSTM({1}, {1})))",
        "seq(nn.GRU({0}, {1}), nn.Dropout(0.3))",
        "nn.FastLSTM({0}, {1}):maskZero(1)",
    ]
    if draw(st.booleans()):
        part = vectors(draw, shape, depth)
        return f"nn.Recursor({part[0]})", part[1]
    return draw(st.sampled_from(made)).format(f, k), out


def sequencer(draw: Draw, shape: Shape, depth: int) -> Net:
    """A step for each of a sequence."""
    inner = ("vector", *shape[2:])
    lua, out = step(draw, inner, depth) if draw(st.booleans()) else vectors(draw, inner, depth)
    remember = draw(st.sampled_from(["", ":remember('both')", ":remember('neither')"]))
    return f"nn.Sequencer({lua}){remember}", (*shape[:2], *out[1:])


CONTAINERS: dict[str, list[Callable[[Draw, Shape, int], Net]]] = {
    "vector": [branches, residual, parallel, mapped, mixture, twins, decorated, recursor, graph, graph],
    "image": [image_branches],
    "sequence": [sequencer],
    "steps": [sequencer],
}
