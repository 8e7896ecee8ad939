"""What random instances of each class look like: constructor and input, in the notation of :mod:`instances`."""

from __future__ import annotations

from instances import Layer
from layers_lua import LUA_LAYERS

L = Layer
ANY = "n | n,c | n,c,h | n,c,h,w"
IMAGES = "c,h+{m},w+{m} | n,c,h+{m},w+{m}"


def images(least: int, planes: str = "c") -> str:
    """Images, one or a batch, at least ``least`` high and wide."""
    return f"{planes},h+{least - 1},w+{least - 1} | n+1,{planes},h+{least - 1},w+{least - 1}"


def volumes(least: int, planes: str = "c") -> str:
    """Volumes, one or a batch."""
    t = f"t+{least - 1},h+{least - 1},w+{least - 1}"
    return f"{planes},{t} | n+1,{planes},{t}"


def each(names: str, input: str = ANY) -> dict[str, tuple[Layer, ...]]:
    """Classes whose constructors take nothing."""
    return {f"nn.{name}": (L(f"nn.{name}()", input),) for name in names.split()}


def inside(module: str, input: str) -> tuple[Layer, ...]:
    return (L(module, input),)


def sequences(cell: str) -> tuple[Layer, ...]:
    """A step module over a sequence: batches and single samples, tables, and padding that it masks."""
    return (
        L(f"nn.Sequencer(nn.{cell}(<i>, <o>))", "t,n,i | t,i | [n,i; n,i; n,i]"),
        L(f"nn.Sequencer(told(nn.{cell}(<i>, <o>), 'maskZero', 1))", PADDED),
        L(f"nn.Sequencer(nn.{cell}(<i>, <i>)):remember()", "t,n,i"),
    )


#: a batch of sequences, of which some steps are zero
PADDED = "=R(<t>, <n>, <i>):cmul(torch.rand(<t>, <n>, 1):gt(0.4):double():expand(<t>, <n>, <i>))"
#: steps that recurrent layers and others compute one after the other
STACK = (
    "nn.Sequential():add(nn.FastLSTM(<i>, <h>)):add(nn.Tanh()):add(nn.GRU(<h>, <k>)):add(nn.LSTM(<k>, <o>))"
    ":add(nn.Linear(<o>, <v>)):add(nn.LogSoftMax())"
)
K2, K3 = "<kw:1-3>, <kh:1-3>", "<kt:1-3>, <kw:1-3>, <kh:1-3>"
D2, D3 = "<dw:1-3>, <dh:1-3>", "<dt:1-3>, <dw:1-3>, <dh:1-3>"
PAIR = "[n,c; n,c]"
TWINS = "[n; n] | [n,c; n,c] | [n,c,h; n,c,h]"


def criterion(lua: str, input: str, target: str) -> tuple[Layer, ...]:
    """A criterion, averaging or not."""
    return (L(f"(function(c) c.sizeAverage = <avg:bool>; return c end)({lua})", input, target),)


def spread(module: str) -> str:
    """A module whose parameters are random, where the constructor sets them to fixed numbers."""
    return f"(function(m) for _, p in ipairs(m:parameters()) do p:uniform(0.1, 1) end; return m end)({module})"


#: class -> declarations
LAYERS: dict[str, tuple[Layer, ...]] = {
    **each("Abs Exp Identity LogSigmoid Sigmoid Tanh TanhShrink SoftSign Square ReLU ReLU6 Contiguous ZeroGrad"),
    **each("Sqrt Log", "+n | +n,c | +n,c,h,w"),
    **each("SoftMax LogSoftMax SoftMin"),
    **each("SpatialSoftMax SpatialLogSoftMax", "c,h,w | n,c,h,w"),
    **each("CAddTable CMulTable CMaxTable CMinTable", f"{TWINS} | [n,c; n,c; n,c]"),
    **each("CSubTable", TWINS),
    **each("CDivTable", "[n,c; +n,c] | [n; +n]"),
    **each("DotProduct", "[n; n] | [n,c; n,c]"),
    **each("CosineDistance", "[n+1; n+1] | [n,c+1; n,c+1]"),
    **each("Sum", "n,c"),
    **each("FlattenTable", "[n,c; n; [n,h; c]]"),
    # nn: functions with settings
    "nn.Threshold": inside("nn.Threshold(<x:any>, <y:any>)", ANY),
    "nn.HardTanh": inside("nn.HardTanh(<x:-1,-0.5>, <y:0.5,2>)", ANY),
    "nn.Clamp": inside("nn.Clamp(<x:-1,-0.5>, <y:0.5,2>)", ANY),
    "nn.ELU": inside("nn.ELU(<x:1,0.5,-1,2>)", ANY),
    "nn.LeakyReLU": inside("nn.LeakyReLU(<x:0.01,0.5,-1>)", ANY),
    "nn.RReLU": inside("nn.RReLU(0.1, 0.4)", ANY),
    "nn.PReLU": (L("nn.PReLU()", ANY), L("nn.PReLU(<c>)", "n,c | n,c,h,w")),
    "nn.CReLU": (L("nn.CReLU(1)", "c | n,c"), L("nn.CReLU(3)", "n,c,h,w")),
    "nn.SoftPlus": (L("nn.SoftPlus(<x:1,2,0.5>)", ANY),),
    "nn.HardShrink": inside("nn.HardShrink(<x:0.5,0.1>)", ANY),
    "nn.SoftShrink": inside("nn.SoftShrink(<x:0.5,0.1>)", ANY),
    "nn.Power": inside("nn.Power(<x:2,3,0.5,1,-1>)", "+n | +n,c"),
    "nn.MulConstant": inside("nn.MulConstant(<x:any>)", ANY),
    "nn.AddConstant": inside("nn.AddConstant(<x:any>)", ANY),
    "nn.GatedLinearUnit": inside("nn.GatedLinearUnit(<d:1-2>)", "2*n,2*c"),
    "nn.GradientReversal": inside("nn.GradientReversal(<x:1,0.5>)", ANY),
    "nn.L1Penalty": inside("nn.L1Penalty(<x:0.1,1>, <b:bool>)", ANY),
    # nn: linear maps and their kin
    "nn.Linear": (L("nn.Linear(<i>, <o>, <b:bool>)", "i | n,i"),),
    "nn.LinearWeightNorm": (L("nn.LinearWeightNorm(<i>, <o>, <b:bool>)", "i | n,i"),),
    "nn.WeightNorm": (
        L("nn.WeightNorm(nn.Linear(<i>, <o>))", "i | n,i"),
        L("nn.WeightNorm(nn.SpatialConvolution(<i>, <o>, <k:1-2>, <k:1-2>))", images(2, "i")),
    ),
    "nn.Bilinear": (L("nn.Bilinear(<i>, <j>, <o>, <b:bool>)", "[n,i; n,j]"),),
    "nn.PartialLinear": (L("nn.PartialLinear(<i>, <o>)", "n,i"),),
    "nn.Add": (L("nn.Add(<c>)", "c | n,c"), L("nn.Add(1, true)", ANY)),
    "nn.Mul": inside("nn.Mul()", ANY),
    "nn.CMul": (L("nn.CMul(<c>)", "n,c"), L("nn.CMul(1, <c>, 1, 1)", "n,c,h,w"), L("nn.CMul(<c>, <h>)", "n,c,h")),
    "nn.CAdd": (L("nn.CAdd(<c>)", "n,c"), L("nn.CAdd(1, <c>, 1, 1)", "n,c,h,w"), L("nn.CAdd(<c>, <h>)", "n,c,h")),
    "nn.Cosine": (L("nn.Cosine(<i:2-4>, <o>)", "i | n,i"),),
    "nn.Euclidean": (L("nn.Euclidean(<i>, <o>)", "i | n,i"),),
    "nn.WeightedEuclidean": (L("nn.WeightedEuclidean(<i>, <o>)", "i | n,i"),),
    "nn.LookupTable": (L("nn.LookupTable(<v>, <o>)", "#v:n | #v:n,t"), L("nn.LookupTable(<v>, <o>, 1, 0.5)", "#v:n,t")),
    "nn.PairwiseDistance": (L("nn.PairwiseDistance(<p:1-3>)", "[n; n] | [n,c; n,c]"),),
    "nn.MM": (L("nn.MM()", "[n,c; c,h] | [b,n,c; b,c,h]"), L("nn.MM(true, true)", "[b,c,n; b,h,c]")),
    "nn.MV": (L("nn.MV()", "[n,c; c] | [b,n,c; b,c]"), L("nn.MV(true)", "[b,c,n; b,c]")),
    "nn.MixtureTable": (L("nn.MixtureTable()", "[n,2; [n,c; n,c]]"),),
    # nn: shapes and tables
    "nn.View": (L("nn.View(<c>, <h>)", "n,c,h"), L("nn.View(-1)", ANY), L("nn.View(<c>*<h>)", "n,c,h")),
    "nn.Reshape": (L("nn.Reshape(<c>*<h>)", "c,h | n,c,h"), L("nn.Reshape(<h>, <c>, <b:bool>)", "c,h")),
    "nn.Transpose": (L("nn.Transpose({1, 2})", "n,c,h"),),
    "nn.Select": (L("nn.Select(<d:1-2>, <i:1,-1>)", "n,c"),),
    "nn.Narrow": (L("nn.Narrow(<d:1-2>, <o:1-2>, <l:1-2>)", "n+3,c+3"), L("nn.Narrow(2, -2, <l:1-2>)", "n,c+2")),
    "nn.Squeeze": (L("nn.Squeeze()", "n,1,c+1 | n,c+1,1"), L("nn.Squeeze(2)", "n,1,c+1")),
    "nn.Unsqueeze": (L("nn.Unsqueeze(<d:1-3>)", "n,c"),),
    "nn.Replicate": (L("nn.Replicate(<k:1-3>, <d:1-2>)", "n,c"), L("nn.Replicate(<k:1-3>, 1, 1)", "n,c")),
    "nn.Padding": (
        L("nn.Padding(<d:1-2>, <p:-2,-1,1,2>, 2, <x:any>)", "n,c"),
        L("nn.Padding(1, <p:-2,1>, 1)", "c | n,c"),
    ),
    "nn.Max": (L("nn.Max(<d:1-2>)", "n,c"), L("nn.Max(1, 1)", "c | n,c")),
    "nn.Min": (L("nn.Min(<d:1-2>)", "n,c"), L("nn.Min(1, 1)", "c | n,c")),
    "nn.Mean": (L("nn.Mean(<d:1-2>)", "n,c"), L("nn.Mean(1, 1)", "c | n,c")),
    "nn.Index": (L("nn.Index(1)", "[n,c; @n:t]"),),
    "nn.Normalize": (L("nn.Normalize(<p:1,2,3>)", "n+2 | n,c+2"), L("nn.Normalize(math.huge)", "n,c")),
    "nn.LayerNormalization": (L("nn.LayerNormalization(<c:3-5>)", "n,c"),),
    "nn.JoinTable": (
        L("nn.JoinTable(<d:1-2>)", "[n,c; n,c] | [n,c; n,c; n,c]"),
        L("nn.JoinTable(1, 1)", "[c; h] | [n,c; n,h]"),
        L("nn.JoinTable(2)", "[n,c,1,1; n,h] | [n,c; n,h,1]"),
    ),
    "nn.SplitTable": (
        L("nn.SplitTable(<d:1-2>)", "n,c"),
        L("nn.SplitTable(1, 1)", "n,c"),
        L("nn.SplitTable(-1)", "n,c,h"),
    ),
    "nn.SelectTable": (L("nn.SelectTable(<i:1,2,-1>)", "[n; c]"),),
    "nn.NarrowTable": (L("nn.NarrowTable(<o:1-2>, <l:1-2>)", "[n; c; h]"),),
    "nn.PixelShuffle": (L("nn.PixelShuffle(<r:1-3>)", "c*r*r,h,w | n,c*r*r,h,w"),),
    # nn: containers
    "nn.Sequential": (L("nn.Sequential():add(nn.Linear(<i>, <o>)):add(nn.Tanh())", "i | n,i"),),
    "nn.Concat": (L("nn.Concat(2):add(nn.Linear(<i>, <o>)):add(nn.Linear(<i>, <j>))", "n,i"),),
    "nn.DepthConcat": (
        L(
            "nn.DepthConcat(1):add(nn.SpatialConvolution(<i>,<o>,1,1)):add(nn.SpatialConvolution(<i>,<j>,3,2))",
            "i,h+2,w+2",
        ),
    ),
    "nn.ConcatTable": (L("nn.ConcatTable():add(nn.Linear(<i>, <o>)):add(nn.Identity())", "i | n,i"),),
    "nn.ParallelTable": (L("nn.ParallelTable():add(nn.Linear(<i>, <o>)):add(nn.Tanh())", "[n,i; n,c]"),),
    "nn.Parallel": (L("nn.Parallel(2, 1):add(nn.Linear(<i>, <o>)):add(nn.Linear(<i>, <o>))", "i,2"),),
    "nn.MapTable": (
        L("nn.MapTable(nn.Linear(<i>, <o>), <b:bool>)", "[n,i; n,i] | [n,i]"),
        L("nn.MapTable(nn.WeightNorm(nn.Linear(<i>, <o>)))", "[n,i; n,i] | [n,i; n,i; n,i]"),
    ),
    "nn.Bottle": (L("nn.Bottle(nn.Linear(<i>, <o>))", "n,i | n,t,i | n,t,h,i"),),
    # nn: convolutions
    "nn.SpatialConvolution": (L(f"nn.SpatialConvolution(<i>, <o>, {K2}, {D2}, <pw:0-1>, <ph:0-1>)", images(3, "i")),),
    "nn.SpatialConvolutionMM": (L(f"nn.SpatialConvolutionMM(<i>, <o>, {K2}, {D2})", images(3, "i")),),
    "nn.SpatialConvolutionLocal": (
        L(f"nn.SpatialConvolutionLocal(<i>, <o>, <w:3-5>, <h:3-5>, {K2}, {D2})", "i,h,w | n,i,h,w"),
    ),
    "nn.SpatialConvolutionMap": (
        L("nn.SpatialConvolutionMap(nn.tables.full(<i>, <o>), <k:1-3>, <k:1-3>)", "i,h+2,w+2"),
    ),
    "nn.SpatialDepthWiseConvolution": (L("nn.SpatialDepthWiseConvolution(<i>, <o>, <k:1-3>, <k:1-3>)", "n,i,h+2,h+2"),),
    "nn.SpatialDilatedConvolution": (
        L(f"nn.SpatialDilatedConvolution(<i>, <o>, {K2}, {D2}, 0, 0, <aw:1-2>, <ah:1-2>)", images(5, "i")),
    ),
    "nn.SpatialFullConvolution": (L(f"nn.SpatialFullConvolution(<i>, <o>, {K2}, {D2})", images(1, "i")),),
    "nn.SpatialSubSampling": (L(f"nn.SpatialSubSampling(<i>, {K2}, {D2})", images(3, "i")),),
    "nn.TemporalConvolution": (L("nn.TemporalConvolution(<i>, <o>, <k:1-3>, <d:1-2>)", "t+2,i | n,t+2,i"),),
    "nn.TemporalRowConvolution": (L("nn.TemporalRowConvolution(<i>, <k:1-3>, 1)", "t+2,i | n,t+2,i"),),
    "nn.TemporalSubSampling": (L("nn.TemporalSubSampling(<i>, <k:1-3>, <d:1-2>)", "t+2,i"),),
    "nn.VolumetricConvolution": (L(f"nn.VolumetricConvolution(<i>, <o>, {K3}, {D3})", volumes(3, "i")),),
    "nn.VolumetricDilatedConvolution": (
        L(f"nn.VolumetricDilatedConvolution(<i>, <o>, {K3}, {D3}, 0, 0, 0, <a:1-2>, 1, 1)", volumes(5, "i")),
    ),
    "nn.VolumetricFullConvolution": (L(f"nn.VolumetricFullConvolution(<i>, <o>, {K3}, {D3})", volumes(1, "i")),),
    # nn: pooling
    "nn.SpatialMaxPooling": (
        L(f"nn.SpatialMaxPooling({K2}, {D2})", images(3)),
        L(f"nn.SpatialMaxPooling(<k:2-3>, <k:2-3>, {D2}, 1, 1):ceil()", images(3)),
    ),
    "nn.SpatialDilatedMaxPooling": (
        L(f"nn.SpatialDilatedMaxPooling(<k:2-3>, <k:2-3>, {D2}, <p:0-1>, 1, <a:1-3>, <b:1-3>)", images(7)),
        L(f"nn.SpatialDilatedMaxPooling(<k:2-3>, <k:2-3>, {D2}, 1, <p:0-1>, <a:1-3>, <b:1-3>):ceil()", images(5)),
    ),
    "nn.SpatialAveragePooling": (
        L(f"nn.SpatialAveragePooling({K2}, {D2})", images(3)),
        L(f"nn.SpatialAveragePooling(2, 3, {D2}, 1, 1):setCountExcludePad()", images(3)),
        L("nn.SpatialAveragePooling(3, 2, 2, 2, 1, 1):ceil()", images(3)),
    ),
    "nn.SpatialAdaptiveMaxPooling": (L("nn.SpatialAdaptiveMaxPooling(<a:1-3>, <b:1-3>)", images(3)),),
    "nn.SpatialAdaptiveAveragePooling": (L("nn.SpatialAdaptiveAveragePooling(<a:1-3>, <b:1-3>)", images(3)),),
    "nn.SpatialLPPooling": (L("nn.SpatialLPPooling(<c>, 2, <k:1-2>, <k:1-2>)", "+c,h+2,w+2"),),
    "nn.FeatureLPPooling": (L("nn.FeatureLPPooling(2, <d:1-2>, 2, true)", "n,c+2"),),
    "nn.TemporalMaxPooling": (L("nn.TemporalMaxPooling(<k:1-3>, <d:1-3>)", "t+2,c | n,t+2,c"),),
    "nn.TemporalDynamicKMaxPooling": (L("nn.TemporalDynamicKMaxPooling(<k:1-3>, <f:0,0.5>)", "t+2,c | n,t+2,c"),),
    "nn.VolumetricMaxPooling": (
        L(f"nn.VolumetricMaxPooling({K3}, {D3})", volumes(3)),
        L(f"nn.VolumetricMaxPooling(2, 2, 3, {D3}, 1, 1, 1)", volumes(3)),
    ),
    "nn.VolumetricDilatedMaxPooling": (
        L(f"nn.VolumetricDilatedMaxPooling(2, 2, 2, {D3}, 0, 0, 1, <a:1-2>, 1, <b:1-3>)", volumes(5)),
    ),
    "nn.VolumetricAveragePooling": (L(f"nn.VolumetricAveragePooling({K3}, {D3})", volumes(3)),),
    # nn: normalization, padding, resampling
    "nn.BatchNormalization": (
        L(spread("nn.BatchNormalization(<c>, <e:1e-5,0.1,0>)"), "n+1,c"),
        L("nn.BatchNormalization(<c>, 1e-3, <m:0.1,0.5>, false)", "n,c"),
    ),
    "nn.SpatialBatchNormalization": (
        L(spread("nn.SpatialBatchNormalization(<c>, <e:1e-5,0.1,0>)"), "n+1,c,h,w"),
        L("nn.SpatialBatchNormalization(<c>, 1e-3, <m:0.1,0.5>, false)", "n,c,h,w"),
    ),
    "nn.VolumetricBatchNormalization": (L(spread("nn.VolumetricBatchNormalization(<c>)"), "n,c,t,h,w"),),
    "nn.SpatialCrossMapLRN": (L("nn.SpatialCrossMapLRN(<s:3,5>, <a:0.1,1>, 0.75, <k:1,2>)", "c,h,w | n,c,h,w"),),
    "nn.SpatialSubtractiveNormalization": (
        L("nn.SpatialSubtractiveNormalization(<c>, torch.rand(3, 3))", "c,h+3,w+3 | n,c,h+3,w+3"),
    ),
    "nn.SpatialDivisiveNormalization": (
        L("nn.SpatialDivisiveNormalization(<c>, torch.rand(3))", "c,h+3,w+3 | n,c,h+3,w+3"),
    ),
    "nn.SpatialContrastiveNormalization": (
        L("nn.SpatialContrastiveNormalization(<c>, torch.rand(3, 3))", "c,h+3,w+3 | n,c,h+3,w+3"),
    ),
    "nn.SpatialZeroPadding": (L("nn.SpatialZeroPadding(<a:-1,0,2>, <b:0,1>, <x:-1,0,2>, <y:0,1>)", images(3)),),
    "nn.SpatialReflectionPadding": (L("nn.SpatialReflectionPadding(<a:0-2>, <b:0-2>, <x:0-2>, <y:0-2>)", images(4)),),
    "nn.SpatialReplicationPadding": (L("nn.SpatialReplicationPadding(<a:0-2>, <b:0-2>, <x:0-2>, <y:0-2>)", images(2)),),
    "nn.VolumetricReplicationPadding": (
        L("nn.VolumetricReplicationPadding(<a:0-2>, 0, 1, 0, <b:0-2>, 1)", volumes(2)),
    ),
    "nn.SpatialUpSamplingNearest": (L("nn.SpatialUpSamplingNearest(<k:1-3>)", images(1)),),
    "nn.SpatialUpSamplingBilinear": (L("nn.SpatialUpSamplingBilinear(<k:1-3>)", images(2)),),
    # nn: noise
    "nn.Dropout": (L("nn.Dropout(<p:real>)", "n | n,c"),),
    "nn.SpatialDropout": (L("nn.SpatialDropout(<p:real>)", "n,c,h,w"),),
    "nn.VolumetricDropout": (L("nn.VolumetricDropout(<p:real>)", "n,c,t,h,w"),),
    # nn: criterions
    "nn.AbsCriterion": criterion("nn.AbsCriterion()", "n,c", "n,c"),
    "nn.MSECriterion": criterion("nn.MSECriterion()", "n,c | n*c", "n,c"),
    "nn.SmoothL1Criterion": criterion("nn.SmoothL1Criterion()", "n,c | n*c", "n,c"),
    "nn.BCECriterion": criterion("nn.BCECriterion()", "01n,c", "01n,c"),
    "nn.ClassNLLCriterion": criterion("nn.ClassNLLCriterion()", "n,c", "#c:n")
    + criterion("nn.ClassNLLCriterion(torch.rand(<c>))", "n,c", "#c:n"),
    "nn.CrossEntropyCriterion": (L("nn.CrossEntropyCriterion()", "n,c", "#c:n"),),
    "nn.SpatialClassNLLCriterion": criterion("nn.SpatialClassNLLCriterion(torch.rand(<c>))", "+n,c,h,w", "#c:n,h,w"),
    "nn.DistKLDivCriterion": criterion("nn.DistKLDivCriterion()", "n,c", "01n,c"),
    "nn.MarginCriterion": criterion("nn.MarginCriterion(<m:0.5,1,2>)", "n | n", "-1+1n"),
    "nn.SoftMarginCriterion": criterion("nn.SoftMarginCriterion()", "n,c", "-1+1n,c"),
    "nn.MultiMarginCriterion": criterion("nn.MultiMarginCriterion(<p:1-2>)", "n,c", "#c:n"),
    "nn.MultiLabelSoftMarginCriterion": (L("nn.MultiLabelSoftMarginCriterion()", "n,c", "01n,c"),),
    "nn.HingeEmbeddingCriterion": criterion("nn.HingeEmbeddingCriterion(<m:0.5,1>)", "n", "-1+1n"),
    "nn.CosineEmbeddingCriterion": criterion("nn.CosineEmbeddingCriterion(<m:0,0.5>)", "[n,c+4; n,c+4]", "-1+1n"),
    "nn.MarginRankingCriterion": criterion("nn.MarginRankingCriterion(<m:0,1>)", "[n; n]", "-1+1n"),
    "nn.L1Cost": (L("nn.L1Cost()", "n | n,c", "1"),),
    "nn.ClassSimplexCriterion": (L("nn.ClassSimplexCriterion(<c:3-5>)", "n,c", "#c:n"),),
    "nn.MultiCriterion": (L("nn.MultiCriterion():add(nn.MSECriterion()):add(nn.AbsCriterion(), 0.5)", "n,c", "n,c"),),
    "nn.ParallelCriterion": (
        L(
            "nn.ParallelCriterion():add(nn.MSECriterion()):add(nn.ClassNLLCriterion(), 0.5)",
            "[n,h; n,c]",
            "[n,h; #c:n]",
        ),
    ),
    "nn.MultiLabelMarginCriterion": criterion("nn.MultiLabelMarginCriterion()", "n,c", "#c:n,c"),
    "nn.WeightedMSECriterion": (L("nn.WeightedMSECriterion(torch.rand(<c>))", "n,c", "n,c"),),
    # dpnn
    "nn.BinaryLogisticRegression": criterion("nn.BinaryLogisticRegression()", "n,1", "-1+1n,1"),
    "nn.Inception": (
        L(
            "nn.Inception{inputSize=<i>,kernelSize={3,1},kernelStride={1,1},outputSize={<o>,2},reduceSize={2,2,2,2}}",
            "n,i,h+3,w+3",
        ),
    ),
    "nn.ArgMax": (L("nn.ArgMax(2, nil, false)", "n,c"),),
    "nn.OneHot": (L("nn.OneHot(<c>)", "#c:n | #c:n,t"),),
    "nn.Clip": (L("nn.Clip(<x:-1,-0.5>, <y:0.5,1>)", "n,c"),),
    "nn.Collapse": (L("nn.Collapse(<d:1-2>)", "n,c | n,c,h | n,c,h,w"),),
    "nn.Constant": (L("nn.Constant(torch.rand(<c>), 1)", "n,h"),),
    "nn.Convert": (L("nn.Convert('bchw', 'bhwc')", "n,c,h,w"), L("nn.Convert('bchw', 'bf')", "n,c,h,w")),
    "nn.ReverseTable": each("ReverseTable", "[n; c; h]")["nn.ReverseTable"],
    "nn.ZipTable": each("ZipTable", "[[n; c]; [h; w]]")["nn.ZipTable"],
    "nn.ZipTableOneToMany": each("ZipTableOneToMany", "[n; [c; h]]")["nn.ZipTableOneToMany"],
    "nn.CAddTensorTable": each("CAddTensorTable", "[n; [n; n; n]]")["nn.CAddTensorTable"],
    "nn.SpatialFeatNormalization": (
        L("nn.SpatialFeatNormalization(torch.rand(<c>), torch.rand(<c>):add(1))", "c,h,w"),
    ),
    "nn.CategoricalEntropy": (L("nn.CategoricalEntropy(<x:0.1,1>)", "01n,c"),),
    "nn.WhiteNoise": (L("nn.WhiteNoise(<x:0,0.5>, <y:0.1,1>)", "n,c"),),
    "nn.TotalDropout": (L("nn.TotalDropout(<p:real>)", "n,c"),),
    "nn.SpatialGlimpse": (L("nn.SpatialGlimpse(<s:2,3>, <d:1-2>, 2)", "[n,c,h+4,w+4; n,2]"),),
    "nn.SpatialReSampling": (L("nn.SpatialReSampling{owidth=<a:2-6>,oheight=<b:2-6>}", "c,h+1,w+1 | n,c,h+1,w+1"),),
    "nn.FireModule": (L("nn.FireModule(<i>, 2, <o>, <o>)", "n,i,h+2,w+2"),),
    "nn.SpatialBinaryConvolution": (L("nn.SpatialBinaryConvolution(<i>, <o>, <k:1-3>, <k:1-3>)", "n,i,h+2,w+2"),),
    # rnn
    "nn.LinearNoBias": (L("nn.LinearNoBias(<i>, <o>)", "i | n,i"),),
    **{f"nn.{cell}": sequences(cell) for cell in ("LSTM", "FastLSTM", "GRU")},
    "nn.MuFuRu": (  # its operations are global, and keep the type of the last instance
        L(
            "(function() for k, m in pairs(_operations) do _operations[k] = m:clone():double() end "
            "return nn.Sequencer(nn.MuFuRu(<i>, <o>)) end)()",
            "t,n,i",
        ),
    ),
    "nn.Sequencer": (
        L("nn.Sequencer(nn.Linear(<i>, <o>))", "t,n,i | [n,i; n,i]"),
        L(f"nn.Sequencer({STACK})", "t,n,i | t,i | [n,i; n,i; n,i]"),
        L("nn.Sequencer(nn.Sequential():add(nn.LookupTable(<v>, <i>)):add(nn.GRU(<i>, <o>)))", "#v:t,n"),
    ),
    "nn.BiSequencer": (
        L("nn.BiSequencer(nn.LSTM(<i>, <o>))", "[n,i; n,i; n,i]"),
        L("nn.BiSequencer(nn.FastLSTM(<i>, <o>), nn.GRU(<i>, <o>), nn.CAddTable())", "[n,i; n,i; n,i]"),
    ),
    "nn.Repeater": (
        L("nn.Repeater(nn.Recursor(nn.Linear(<i>, <i>)), <k:1-3>)", "n,i"),
        L("nn.Repeater(nn.FastLSTM(<i>, <o>), <k:1-4>)", "i | n,i"),
    ),
    "nn.SeqLSTM": (
        L("nn.SeqLSTM(<i>, <o>)", "t,n,i"),
        L("with(nn.SeqLSTM(<i>, <o>), {batchfirst = <b:bool>, maskzero = <z:bool>})", PADDED),
    ),
    "nn.SeqLSTMP": (L("nn.SeqLSTMP(<i>, <h>, <o>)", "t,n,i"),),
    "nn.SeqGRU": (
        L("nn.SeqGRU(<i>, <o>)", "t,n,i"),
        L("with(nn.SeqGRU(<i>, <o>), {batchfirst = <b:bool>, maskzero = <z:bool>})", PADDED),
    ),
    "nn.SeqBRNN": (L("nn.SeqBRNN(<i>, <o>)", "t,n,i"),),
    "nn.SeqReverseSequence": (L("nn.SeqReverseSequence(<d:1-2>)", "t,n,i"),),
    "nn.MaskZero": (L("nn.MaskZero(nn.Tanh(), 1)", "i | n,i"),),
    "nn.TrimZero": (L("nn.TrimZero(nn.Tanh(), 1)", "n,i"),),
    "nn.LookupTableMaskZero": (L("nn.LookupTableMaskZero(<v>, <o>)", "#v:n | #v:n,t"),),
    "nn.SAdd": (L("nn.SAdd(<x:any>, <b:bool>)", "n,c"),),
    "nn.Recursor": (L("nn.Sequencer(nn.Recursor(nn.Linear(<i>, <o>)))", "t,n,i"),),
    "nn.Recurrence": (
        L(
            "nn.Sequencer(nn.Recurrence(nn.Sequential():add(nn.JoinTable(1, 1)):add(nn.Linear(<i>+<o>, <o>)), <o>, 1))",
            "t,n,i",
        ),
    ),
    "nn.Recurrent": (
        L("nn.Sequencer(nn.Recurrent(<o>, nn.Linear(<i>, <o>), nn.Linear(<o>, <o>), nn.Tanh()))", "t,n,i"),
    ),
    "nn.NormStabilizer": (
        L("nn.Sequencer(nn.Recursor(nn.Sequential():add(nn.Linear(<i>, <o>)):add(nn.NormStabilizer(0.1))))", "t,n,i"),
    ),
    "nn.CopyGrad": each("CopyGrad")["nn.CopyGrad"],
    "nn.SequencerCriterion": (L("nn.SequencerCriterion(nn.MSECriterion())", "[n,c; n,c]", "[n,c; n,c]"),),
    "nn.RepeaterCriterion": (L("nn.RepeaterCriterion(nn.MSECriterion())", "[n,c; n,c]", "n,c"),),
    "nn.MaskZeroCriterion": (L("nn.MaskZeroCriterion(nn.MSECriterion(), 1)", "n,c", "n,c"),),
    # nnx
    "nn.Minus": each("Minus")["nn.Minus"],
    "nn.MultiSoftMax": each("MultiSoftMax", "b,n,c")["nn.MultiSoftMax"],
    "nn.SaturatedLU": inside("nn.SaturatedLU(<x:-1,-0.5>, <y:0.5,1>)", "n,c"),
    "nn.PixelSort": (L("nn.PixelSort(<r:1-3>)", "c,h*r,w*r | n,c,h*r,w*r"),),
    "nn.SpatialLinear": (L("nn.SpatialLinear(<i>, <o>)", "i,h,w"),),
    "nn.SpatialDownSampling": (L("nn.SpatialDownSampling(<a:1-3>, <b:1-3>)", "c,h+2,w+2"),),
    "nn.SpatialUpSampling": (L("nn.SpatialUpSampling(<a:1-3>, <b:1-3>)", "c,h,w"),),
    "nn.SpatialMaxSampling": (L("nn.SpatialMaxSampling{owidth=<a:1-3>,oheight=<b:1-3>}", "c,h+2,w+2"),),
    "nn.SpatialReSamplingEx": (
        L("nn.SpatialReSamplingEx{owidth=<a:4-7>,oheight=<b:4-7>,mode=<m:'simple','bilinear'>}", "c,3,4"),
    ),
    "nn.SpatialPadding": (L("nn.SpatialPadding(<a:-1,0,1>, <b:0-2>, <x:-1,0,1>, <y:0-2>)", "c,h+2,w+2"),),
    "nn.DistMarginCriterion": (L("nn.DistMarginCriterion()", "n,c", "#c:n,c"),),
    "nn.SpatialColorTransform": (L("nn.SpatialColorTransform('rgb2yuv')", "3,h,w"),),
    "nn.Balance": (L("nn.Balance(<k:2-5>)", "01n,c"),),
    "nn.DistNLLCriterion": (L("nn.DistNLLCriterion()", "n,c", "01n,c"),),
    **LUA_LAYERS,
}
