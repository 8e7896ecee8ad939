"""Processes that start at once: forks of a server that has imported PyTorch and dpnn_bridge already.

Only for tests of what a process does: imports of a fork are not those of a new program.
"""

import multiprocessing

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    [
        f"dpnn_bridge.{name}"
        for name in ("batch", "cli.convert", "cli.inspect", "cli.verify", "parity.html", "outputs.formats.pt2")
    ]
    + ["safetensors.torch", "torch._dynamo", "torch.export", "onnxscript", "torch.onnx._internal.exporter._compat"]
)
