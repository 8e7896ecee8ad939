"""Processes that start at once: forks of a server that has imported PyTorch and dpnn_bridge already.

Only for tests of what a process does: imports of a fork are not those of a new program.
"""

import multiprocessing
import pkgutil

import dpnn_bridge.modules

#: what commands import at their start and while they run
MODULES = [
    *(f"dpnn_bridge.{name}" for name in ("batch", "cli.convert", "cli.inspect", "cli.verify", "files.converting")),
    *(f"dpnn_bridge.{name}" for name in ("lua", "outputs.formats.pt2", "parity.api", "parity.html", "pictures.html")),
    *(module.name for module in pkgutil.walk_packages(dpnn_bridge.modules.__path__, "dpnn_bridge.modules.")),
    *("safetensors.torch", "onnxscript", "torch._dynamo", "torch.export", "torch.onnx._internal.exporter._compat"),
    "pytest",
]
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(MODULES)
