"""Random instances of the classes whose inputs are made in Lua: linked layers, trees, sparse input, rewards, tables."""

from __future__ import annotations

from instances import Layer

L = Layer
PLAIN = "n | n,c | n,c,h,w"
REWARD = "R(<n>)"


def inside(*modules: str, input: str = "n,<i>") -> tuple[Layer, ...]:
    """Modules that hold another one; ``<i>`` in their constructor are its inputs."""
    return tuple(L(module, input.replace("<i>", "i")) for module in modules)


def reinforced(module: str, *inputs: str) -> tuple[Layer, ...]:
    return tuple(L(module, input, reward=REWARD) for input in inputs)


def processors(planes: str = "<o:1-3>") -> str:
    """The processors of two scales."""
    return f"{{{', '.join([f'seq(nn.SpatialConvolution(<i:1-2>, {planes}, 3, 3), nn.Tanh())'] * 2)}}}"


def fovea(more: str = "") -> str:
    return (
        f"nn.SpatialFovea{{nInputPlane = <i>, ratios = {{1, 2}}, processors = {processors()}, fov = 3, sub = 1{more}}}"
    )


PYRAMID = f"nn.SpatialPyramid({{1, 2}}, {processors('3')}, 3, 3, 1, 1, 3, 2, 3, 2)"
TREE = "{[7] = int{1, 2, 3}, [8] = int{4, 5}, [9] = int{7, 8, 6}}"
DEEP = "{[10] = int{1, 2}, [11] = int{3, 4, 5}, [12] = int{10, 6}, [13] = int{12, 11, 7}}"
GLIMPSE = "seq(add(nn.ParallelTable(), nn.Linear(<i>, 4), nn.Linear(2, 4)), nn.CAddTable(), nn.Tanh())"
ACTION = "seq(nn.Linear(4, 2), nn.HardTanh(), nn.ReinforceNormal(0.2), nn.HardTanh())"
#: a graph of nngraph, of one input and of two
GRAPHS = (
    L("graph({nn.Linear(<i>, <o>), 1}, {nn.Tanh(), 2}, {nn.Linear(<i>, <o>), 1}, {nn.CMulTable(), 3, 4})", "n,i"),
    L(
        "graph({nn.Linear(<i>, 2), 1}, {nn.Sigmoid(), 2}, {nn.JoinTable(2), 2, 3, 1}, {nn.Linear(4 + <i>, <o>), 4})",
        "n,i",
    ),
    L(
        "(function() local x, y = nn.Identity()(), nn.Identity()(); "
        "local j = nn.JoinTable(2)({nn.Linear(<i>, 2)(x), y}); "
        "return nn.gModule({x, y}, {nn.Linear(2 + <c>, <o>)(j), nn.Tanh()(x)}) end)()",
        "[n,i; n,c]",
    ),
    L(
        "(function() local x = nn.Identity()(); local p, q = nn.SplitTable(2)(x):split(2); "
        "return nn.gModule({x}, {nn.CAddTable()({p, nn.Sigmoid()(q)})}) end)()",
        "n,2",
    ),
)


def linked(pair: str, between: str) -> str:
    """Something between two modules of which one knows the other."""
    return f"(function() local first, last = {pair}; return seq(first, {between}, last) end)()"


def unpooling(kind: str, window: str, sizes: str) -> tuple[Layer, ...]:
    pair = f"(function(p) return p, nn.{kind}MaxUnpooling(p) end)(nn.{kind}MaxPooling({window}))"
    return (L(linked(pair, "nn.MulConstant(<x:1,-2>)"), sizes),)


def pushed(push: int, between: str, pull: str, sizes: str) -> Layer:
    pair = f"(function(p) return p, p:pull({pull}) end)(nn.PushTable({push}))"
    return L(linked(pair, between), sizes)


BOTH = "add(nn.ParallelTable(), nn.Tanh(), nn.Linear(<i>, <o>))"

#: class -> declarations
LUA_LAYERS: dict[str, tuple[Layer, ...]] = {
    # nn: what holds another module, or computes nothing
    "nn.Module": inside("nn.Module()", input=PLAIN),
    "nn.Container": inside("nn.Container():add(nn.Linear(<i>, <o>))"),
    "nn.Criterion": (L("nn.Criterion()", "n,c", "n,c"),),
    "nn.Decorator": inside("nn.Decorator(nn.Linear(<i>, <o>))", "nn.Decorator(nn.Maxout(<i>, <o>, 2))"),
    "nn.Profile": inside("nn.Profile(nn.Linear(<i>, <o>), 10, 'layer')"),
    "nn.PrintSize": inside("nn.PrintSize('x')", input=f"{PLAIN} | [n; n,c]"),
    "nn.GPU": inside("nn.GPU(nn.Linear(<i>, <o>), 1)"),
    "nn.Copy": inside(
        "nn.Copy('torch.DoubleTensor', 'torch.FloatTensor', false, true)",
        "nn.Copy('torch.DoubleTensor', 'torch.DoubleTensor', true, true)",
        "nn.Copy()",
        input=PLAIN,
    ),
    "nn.DontCast": inside(
        "nn.DontCast(nn.Linear(<i>, <o>))",
        "nn.DontCast(nn.Linear(<i>, <o>), true, <b:bool>)",
        "nn.DontCast(nn.Linear(<i>, <o>):float(), true, <b:bool>)",
    ),
    "nn.NaN": inside("nn.NaN(nn.Linear(<i>, <o>), 7)"),
    "nn.Maxout": (L("nn.Maxout(<i>, <o>, <k:1-3>)", "i | n,i"), L("nn.Maxout(<i>, <o>, 2, nn.Tanh())", "n,i")),
    "nn.Serial": inside(
        "nn.Serial(nn.Linear(<i>, <o>))",
        "nn.Serial(seq(nn.Linear(<i>, <o>), nn.Dropout(0.5), nn.Tanh())):heavySerial()",
        "nn.Serial(seq(nn.Linear(<i>, <o>), nn.BatchNormalization(<o>))):mediumSerial()",
        input="n+2,<i>",
    ),
    "nn.ModuleFromCriterion": (L("nn.ModuleFromCriterion(nn.MSECriterion())", "[n,c; n,c]"),),
    "nn.CriterionTable": (L("nn.CriterionTable(nn.<kind:MSE,Abs,SmoothL1>Criterion())", "[n,c; n,c]"),),
    "nn.ModuleCriterion": (
        L("nn.ModuleCriterion(nn.MSECriterion(), nn.Tanh(), nn.Sigmoid())", "n,c", "n,c"),
        L("nn.ModuleCriterion(nn.ClassNLLCriterion(), nn.LogSoftMax())", "n,c", "#c:n"),
        L("nn.ModuleCriterion(nn.AbsCriterion(), nn.SelectTable(-1))", "[n,h; n,c]", "n,c"),
    ),
    # nn: linked, sparse, masked, of several inputs
    "nn.SpatialMaxUnpooling": unpooling("Spatial", "<a:1-3>, <b:1-3>", "c,h+2,w+2 | n+1,c,h+2,w+2"),
    "nn.VolumetricMaxUnpooling": unpooling(
        "Volumetric", "<z:1-2>, <a:1-2>, <b:1-2>", "c,t+1,h+1,w+1 | n+1,c,t+1,h+1,w+1"
    ),
    "nn.SpatialFractionalMaxPooling": (
        L("nn.SpatialFractionalMaxPooling(<a:2-3>, <b:2-3>, <w:2-3>, <h:2-3>)", "c,h+3,w+3 | n,c,h+4,w+3"),
        L("nn.SpatialFractionalMaxPooling(2, 2, <r:0.5,0.6>, 0.7)", "n,c,h+4,w+4"),
    ),
    "nn.VolumetricFractionalMaxPooling": (
        L("nn.VolumetricFractionalMaxPooling(<a:2-3>, 2, <b:2-3>, 2, <w:2-3>, 2)", "c,6,5,w+4 | n,c,5,6,w+4"),
    ),
    "nn.MaskedSelect": (L("nn.MaskedSelect()", "={R(<n>, <c>), mask(<n>, <c>)}"),),
    "nn.gModule": GRAPHS,
    "nn.UpSampling": (
        L("nn.UpSampling(<k:2-3>)", "n,c,h,w | n,c,t,h,w"),
        L("nn.UpSampling(<k:1-3>, 'linear')", "n,c,h+1,w+1"),
        L("nn.UpSampling({owidth = <a:2-6>, oheight = <b:2-6>}, 'bilinear')", "n,c,h+1,w+1"),
    ),
    "nn.SparseLinear": (
        L("nn.SparseLinear(<i:2-6>, <o>)", "=sparse(<i>)"),
        L("nn.SparseLinear(<i:2-6>, <o>, <b:bool>)", "={sparse(<i>), sparse(<i>), sparse(<i>)}"),
    ),
    "nn.IndexLinear": (
        L("told(nn.IndexLinear(<i:2-6>, <o>, <b:bool>), 'reset')", "=keyed(<i>, <n>)"),
        L("told(nn.IndexLinear(<i:2-6> + 3, <o>, false, 3), 'reset')", "=keyed(<i>, <n>)"),
        L(
            "told(nn.IndexLinear(<i:2-6>, <o>, false, nil, nil, nil, true), 'reset')",
            "=keyed(<i>, <n>)",
        ),
    ),
    "nn.SpatialFullConvolutionMap": (
        L("nn.SpatialFullConvolutionMap(nn.tables.full(<i>, <o>), <k:1-3>, <j:1-3>, <d:1-2>, <e:1-2>)", "i,h+1,w+1"),
        L("nn.SpatialFullConvolutionMap(nn.tables.random(3, 4, 2), <k:1-3>, <j:1-3>)", "3,h+1,w+1"),
    ),
    "nn.SpatialAutoCropMSECriterion": tuple(
        L("nn.SpatialAutoCropMSECriterion(<avg:bool>)", f"{n}c,h,w", f"{n}c,h{more},w{more}")
        for n in ("", "n,")
        for more in ("", "+2")
    ),
    "nn.DistanceRatioCriterion": (L("nn.DistanceRatioCriterion(<avg:bool>)", "[n; n]", "n"),),
    "nn.L1HingeEmbeddingCriterion": (
        L("nn.L1HingeEmbeddingCriterion(<m:0.1,1,9>)", "={R(<n>), R(<n>)}", "=<y:-1,1>"),
        L("nn.L1HingeEmbeddingCriterion(<m:0.1,1,9>)", "={ints(2, <n>), ints(2, <n>)}", "=<y:-1,1>"),
    ),
    # dpnn: rewards and noise
    "nn.Reinforce": reinforced("nn.Reinforce()", "=R(<n>)"),
    "nn.ReinforceBernoulli": reinforced(
        "nn.ReinforceBernoulli(<s:bool>)", "=U(<n>, <c>)", "=U(<n>)", "=U(<n>, 2, <c>)"
    ),
    "nn.ReinforceCategorical": reinforced("nn.ReinforceCategorical(<s:bool>)", "=U(<n>, <c>)"),
    "nn.ReinforceNormal": reinforced("nn.ReinforceNormal(<d:0.1,2>, <s:bool>)", "=R(<n>, <c>)", "=R(<n>)")
    + reinforced("nn.ReinforceNormal(U(<c>), <s:bool>)", "=R(<n>, <c>)")
    + reinforced("nn.ReinforceNormal(nil, <s:bool>)", "={R(<n>, <c>), U(<n>, <c>)}"),
    "nn.VRClassReward": (
        L("nn.VRClassReward(nn.ReinforceNormal(0.1), <d:1,2.5>)", "={R(<n>, <c>), U(<n>, 1)}", "#c:n"),
        L("nn.VRClassReward(nn.ReinforceNormal(0.1), 1, nn.AbsCriterion())", "={R(<n>, <c>), U(<n>, 1)}", "@c:n"),
    ),
    "nn.BinaryClassReward": (
        L("nn.BinaryClassReward(nn.ReinforceNormal(0.1), <d:1,3>)", "={U(<n>), U(<n>)}", "=ints(2, <n>):add(-1)"),
    ),
    "nn.SpatialUniformCrop": (
        L("nn.SpatialUniformCrop(<a:1-3>, <b:1-3>)", "n,c,h+3,w+3"),
        L("nn.SpatialUniformCrop(<a:1-3>)", "c,h+3,w+3"),
        L("nn.SpatialUniformCrop(<a:2-3>, <b:2-3>, {min = 0.8, max = 1.2})", "n,c,h+5,w+5"),
    ),
    "nn.SpatialRegionDropout": (L("nn.SpatialRegionDropout(<p:0.2,0.5>)", "c,h+4,w+4 | n,c,h+4,w+4"),),
    "nn.SimpleColorTransform": (L("nn.SimpleColorTransform(<c>, U(<c>))", "c,h,w | n+1,c,h,w"),),
    "nn.PCAColorTransform": (L("nn.PCAColorTransform(<c>, U(<c>, <c>), U(<c>), <d:0.1,0.5>)", "c,h,w | n+1,c,h,w"),),
    "nn.Kmeans": (L("nn.Kmeans(<k>, <c>)", "n+1,c"),),
    "nn.NCEModule": (
        L("nn.NCEModule(<i>, <v:5-7>, <k:2-4>, U(<v>), <z:1,-1>)", "={R(<n>, <i>), long(<v>, <n>)}"),
        L(
            "with(nn.NCEModule(<i>, <v:5-7>, 3, U(<v>), 1), {normalized = true, logsoftmax = <b:bool>})",
            "={R(<n>, <i>), long(<v>, <n>)}",
        ),
    ),
    "nn.NCECriterion": (L("nn.NCECriterion()", "={U(<n>), U(<n>, <k>), U(<n>), U(<n>, <k>)}", "=long(1, <n>)"),),
    "nn.SpatialBinaryLogisticRegression": (
        L("nn.SpatialBinaryLogisticRegression(<avg:bool>)", "n,1,h,w", "-1+1n,1,h,w"),
        L("nn.SpatialBinaryLogisticRegression(<avg:bool>)", "1,h,w", "-1+1n,h,w"),
    ),
    "nn.Dictionary": (L("nn.Dictionary(<v>, <o>)", "=ints(<v>, <n>)", era="2015"),),
    # rnn
    "nn.RecurrentAttention": reinforced(
        f"nn.RecurrentAttention(seq({GLIMPSE}, nn.FastLSTM(4, 4)), {ACTION}, <t:1-3>, {{4}})", "=R(<n>, <i>)"
    )
    + reinforced(
        f"nn.RecurrentAttention(nn.Recurrent(4, {GLIMPSE}, nn.Linear(4, 4), nn.Tanh(), 9), {ACTION}, <t:1-3>, {{4}})",
        "=R(<n>, <i>)",
    ),
    "nn.BiSequencerLM": (
        L("nn.BiSequencerLM(nn.LSTM(<i>, <o>))", "[n,i; n,i; n,i]"),
        L("nn.BiSequencerLM(nn.GRU(<i>, <o>), nn.GRU(<i>, <o>), nn.CAddTable())", "[n,i; n,i] | [n,i; n,i; n,i; n,i]"),
    ),
    "nn.ExpandAs": (L("nn.ExpandAs()", "[n,c; n,1] | [n,c; 1,c] | [n,c,h; n,1,1] | [n,c; n,c]"),),
    # nnx
    "nn.PushTable": (
        pushed(2, "seq(nn.SelectTable(1), nn.Linear(<i>, <o>))", "<k:1-2>", "[n,i; n,h]"),
        pushed(1, BOTH, "<k:1-3>", "[n,c; n,h; n,i]"),
    ),
    "nn.PullTable": (pushed(3, BOTH, "<k:1-3>", "[n,c; n,i; n,h]"),),
    "nn.SoftMaxTree": (
        L(f"nn.SoftMaxTree(<i>, {TREE}, 9, false, <s:bool>)", "={R(<n>, <i>), int(ints(6, <n>))}"),
        L(f"nn.SoftMaxTree(<i>, {DEEP}, 13)", "={R(<n>, <i>), int(ints(7, <n>))}"),
    ),
    "nn.SoftMaxForest": (L(f"forest(<i>, {TREE})", "={R(<n>, <i>), int(ints(6, <n>))}"),),
    "nn.TreeNLLCriterion": (L("nn.TreeNLLCriterion()", "n", "#3:n"),),
    "nn.SuperCriterion": (
        L("add(nn.SuperCriterion(), nn.MSECriterion(), nn.AbsCriterion())", "[n,c; n,h]", "[n,c; n,h]"),
        L("add(nn.SuperCriterion(), nn.MSECriterion(), nn.AbsCriterion())", "[n; n]", "n"),
    ),
    "nn.SpatialClassifier": (
        L("nn.SpatialClassifier(nn.Sequential():add(nn.Linear(<i>, <o>)):add(nn.LogSoftMax()))", "i,h,w"),
        L("with(nn.SpatialClassifier(nn.Linear(<i>, <o>)), {spatialOutput = false})", "i,h,w"),
    ),
    "nn.SpatialNormalization": (
        L("nn.SpatialNormalization(<c>, U(3, 3))", "c,h+3,w+3"),
        L("nn.SpatialNormalization(<c>, U(3, 3), 0.7)", "c,h+3,w+3"),
        L("nn.SpatialNormalization(<c>, {U(1, 3), U(3, 1)})", "c,h+3,w+3"),
    ),
    "nn.SpatialGraph": (
        L("nn.SpatialGraph{dist = 'euclid', normalize = <b:bool>}", "01c,h+1,w+1"),
        L("nn.SpatialGraph{dist = 'cosine', normalize = false}", "+c,h+1,w+1"),
    ),
    "nn.SpatialMatching": (
        L("nn.SpatialMatching(<a:1-3>, <b:1-4>, true)", "[c,h+3,w+3; c,h+3,w+3]"),
        L("nn.SpatialMatching(<a:1-3>, <b:1-4>, false)", "[c,h,w; c,h+a-1,w+b-1]"),
    ),
    "nn.SpatialRadialMatching": (L("nn.SpatialRadialMatching(<a:1-3>)", "[c,h,w; c,h+a-1,w]"),),
    "nn.SpatialPyramid": (L(PYRAMID, "i,8,8 | i,6,10"), L(f"told({PYRAMID}, 'focus', 4, 5, 1, 1)", "i,8,8")),
    "nn.SpatialFovea": (
        L(fovea(), "i,8,8 | i,10,8"),
        L(fovea(", bilinear = true"), "i,8,8"),
        L(f"told({fovea()}, 'focus', 5, 4, 3)", "i,8,8"),
    ),
    "nn.Probe": inside("nn.Probe('p')", input="n+1 | n+1,c"),
    "nn.Tic": inside("nn.Tic('a')", input=PLAIN),
    "nn.Toc": inside("(function() nn.Tic('a'); return nn.Toc('a', 'c') end)()", input=PLAIN),
}

#: why classes have no random instances
NOT_RANDOM = {
    "nn.Bigrams": "stood beside dpnn's init.lua for some weeks of 2016, never in it; fixtures made with that version",
    "nn.ReinforceGamma": "draws in randomkit and needs cephes, C packages of their own; fixtures made with them",
    "nn.SparseCriterion": "its C code is in no published version of nnx; the object is built and written back",
    "nn.SpatialSparseCriterion": "its C code is in no published version of nnx; the object is built and written back",
    "nn.CTCCriterion": "computes in warp_ctc, a library of its own; compared with torch.nn.CTCLoss in tests/modules",
    "nn.SpatialRecursiveFovea": "calls SpatialPadding and SpatialReSampling in a form that nnx gave up in 2011",
    "nn.LinearVA": "a Linear whose reset draws smaller numbers, of scripts for variational autoencoders",
    "nn.NarrowLookupTable": "nnx removed it in September 2015; fixtures made with its last version",
    "nn.SpatialCrossLRN": "the name of SpatialCrossMapLRN until December 2015; fixtures made with its last version",
    "nn.SpatialDeconvolution": "the name of SpatialFullConvolution until December 2015",
    "nn.VolumetricDeconvolution": "the name of VolumetricFullConvolution until December 2015",
    "nn.SpatialConvolutionSparse": "a SpatialConvolutionMap by its name in nnx until 2012",
    "nn.ElementTable": "the name of SelectTable in July 2014",
    "nn.IdentityTable": "the name that nngraph gave to Identity in 2013",
    "nn.LookupTableEmbedding_train": "a LookupTable by the name of a script that calls a function which nn removed",
}
