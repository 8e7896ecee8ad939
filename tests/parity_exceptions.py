"""Where a module differs from Torch7 on purpose, and why.

Class of the fixture, or beginning of its name -> beginning of a comparison's name -> reason.
Everything else is compared strictly.
"""

from __future__ import annotations

from typing import Any

ONE_BUFFER = (
    "Torch7 gives both branches the one output buffer of the object that stands in both, so that the second result "
    "overwrites the first; here each has its own"
)

SHORTER_RUN = "after a shorter sequence Torch7 uses the buffer of one gradInput for another one, which is overwritten"
ONE_OUTPUT = (
    "in evaluation all steps of a recurrent module return one buffer, so that earlier outputs show the last result"
)
EVALUATION = "backward in evaluation works on buffers that every step overwrote, and gives wrong gradients in Torch7"

NODES = (
    "Torch7 lists views of a SoftMaxTree's single nodes, under their numbers where static; "
    "tests/test_dpnn_tree.py compares the whole tensors"
)

EXCEPTIONS: dict[str, dict[str, str]] = {
    "nn.SparseLinear": {
        "gradInput": "Torch7 returns a gradient for every element of the dense vector, autograd one for each value in "
        "the input; tests/test_sparse.py compares them",
    },
    "nn.IndexLinear": {
        "gradInput": "as nn.SparseLinear; tests/test_sparse.py",
        "gradParams[1]": "Torch7 lists a table of rows instead of a gradient tensor; tests/test_sparse.py sums them",
        "backward": "Torch7 forgets that a single sample has no gradInput; nothing stands in the way here",
    },
    "nn.Reinforce": {"output": "the abstract class returns nothing in Torch7; here what it keeps in its field output"},
    "nn.Bigrams": {"backward": "a slip makes gradInput a boolean in Torch7; here nothing stands in the way"},
    "nn.SoftMaxTree": dict.fromkeys(("params", "gradParams"), NODES),
    "2015.SoftMaxForest": {
        **dict.fromkeys(("params", "gradParams"), NODES),
        **dict.fromkeys(
            ("output", "gradInput"), "SoftMax of 2015, in the gater, approximates exp; tests/test_dpnn_tree.py"
        ),
    },
    "nn.SoftMaxForest": dict.fromkeys(("params", "gradParams"), NODES),
    "2016.Kmeans.k3_own_scale.train.double": {
        "gradParams": "Kmeans' own scale replaces that of backward, which autograd does not have; "
        "tests/test_dpnn_kmeans.py compares it",
    },
    "2016.SpatialBinaryConvolution.forward_twice_train.train.double": dict.fromkeys(
        ("output", "gradInput", "gradParams", "after"),
        "Torch7 loses the weights for good when a second forward comes before a backward; here they are kept",
    ),
    "nn.Constant": {"forward": "dpnn of 2015 forgot to resize the output of a constant that is given as it is"},
    "nn.SpatialUniformCrop": {"forward": "dpnn of 2015 took batches only"},
    "2015.BatchNormalization": {"backward": "nn of 2015 refused backward in evaluation; later versions define it"},
    "2015.SpatialBatchNormalization": {"backward": "as 2015.BatchNormalization"},
    "2015.Inception.batchnorm": {"backward": "as 2015.BatchNormalization"},
    "nn.SpatialDropout": {"backward": "Torch7 defines no gradient in evaluation; here it is the derivative"},
    "nn.VolumetricDropout": {"backward": "Torch7 defines no gradient in evaluation; here it is the derivative"},
    "Sequential__empty": {"backward": "Torch7 fails on an empty container; here it is the identity"},
    "Sequential__net_siamese_sameobject": dict.fromkeys(("output", "gradInput", "gradParams"), ONE_BUFFER),
    "Sequential__net_siamese_weightonly": {
        "gradParams": "the branches share weights and not gradients in Torch7; here one parameter has one gradient, "
        "the sum of Torch7's; tests/test_container.py adds them",
    },
    # the rnn package
    "nn.TrimZero": {
        "backward": "Torch7 fails when rows are masked before a layer with parameters; here the gradient is defined"
    },
    "2016_TrimZero": {"backward": "as nn.TrimZero"},
    "Sequencer__nested": {
        "backward": "Torch7's clones of the inner Sequencer share one recurrent module; here it works"
    },
    "Sequencer__lstm_eval_backward": dict.fromkeys(("gradInput", "gradParams"), EVALUATION),
    "Sequencer__nngraph_lstm__double_eval": dict.fromkeys(("gradInput", "gradParams"), EVALUATION),
    **{
        f"RecurrentAttention__{name}": dict.fromkeys(("output[1]", "output[2]"), ONE_OUTPUT)
        for name in ("recurrent_eval", "recurrent_used_eval", "fastlstm_eval", "fastlstm_used_eval", "stochastic_eval")
    },
    "BiSequencerLM__used": {"gradInput": SHORTER_RUN},
    "2016_BiSequencerLM__used": {"gradInput": SHORTER_RUN},
    "2016_MaskZero__nearly_zero__float": dict.fromkeys(
        ("output", "gradInput"), "Torch7 of 2016 squared floats in double precision, so that 1e-30 was not yet zero"
    ),
    "Dropout__v1": {"backward": "rnn's nn.Dropout fails in evaluation by a slip; here it is the derivative"},
    "Serial__sequencer_light": {"backward": "lightSerial leaves no gradients in the file for Torch7 to add to"},
    "2016_Serial__sequencer_light": {"backward": "as Serial__sequencer_light"},
    # third-party packages
    "InstanceNormalization__disabled": {
        "backward": "Torch7 asserts on a layer that is switched off; here it is the identity",
    },
    "Sequential__pushpull3": {"backward": "Torch7's PushTable miscounts its gradients; here they are complete"},
    "nn.SharpMask": {
        "gradInput": "Torch7 returns the gradient of the trunk's output, as only the refinements are trained; "
        "tests/test_third_fields.py compares those",
    },
}


def exception_for(entry: dict[str, Any], comparison: str) -> str | None:
    """The reason why a comparison of a fixture may fail, or None."""
    for key, reasons in EXCEPTIONS.items():
        if entry["class"] == key or entry["name"].startswith(key):
            return next((reason for name, reason in reasons.items() if comparison.startswith(name)), None)
    return None
