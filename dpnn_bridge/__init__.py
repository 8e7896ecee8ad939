"""Read Torch7 checkpoints, convert them to PyTorch modules and verify the result.

>>> import dpnn_bridge
>>> print(dpnn_bridge.inspect("model.t7"))                                   # doctest: +SKIP
>>> model = dpnn_bridge.load("model.t7")                                     # doctest: +SKIP
>>> dpnn_bridge.convert("model.t7", "model.onnx", input=image)               # doctest: +SKIP
>>> dpnn_bridge.verify("model.t7", "model.onnx", input=image).ok             # doctest: +SKIP

Files::

    inspect(path)              describe the content of a file, whether it is supported, and what to do next
    load(path)                 return the model of a file as a trainable torch.nn.Module
    load_checkpoint(path)      return a Checkpoint: all models of a file, vocabulary, options, optimizer state, …
    convert(src, dst)          convert one file to another; the suffix of dst selects the format
    save(path, module)         write a module as .pt, .safetensors, .npz, .onnx, .pt2, .py or .t7
    verify(model, converted)   compare layer by layer with Torch7's results, or with the converted file
    port(model, module, x)     load the weights into another implementation of the network, with proof
    read_t7(path)              return the tables, objects and tensors of a .t7 file, without modules
    write_t7(path, value)      write modules, tensors and plain data to a .t7 file
    load_lua(path)             replacement for torch.utils.serialization.load_lua of PyTorch 0.4

Modules::

    to_torch(obj), to_lua(module)            convert a Lua object of read_t7 to a module, and back
    model_at(model, "modules[3]")            return the submodule at a Lua path; lua_paths and lua_names list all
    load_flat(model, vector)                 load the vector of Torch7's getParameters() into a model
    lua_class, LuaClass                      map a class of your own: docs/how-to/custom-class.md

Subpackages: errors, memory (state of recurrent layers), optim, parity, pictures, training.

Arguments have the names of the options of the commands: ``--index-base 0`` is ``index_base=0``. A list has the plural
(``--plugin a.py`` is ``plugins=["a.py"]``). Every error is an ``errors.DpnnBridgeError``.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpnn_bridge import errors, memory, optim, parity, pictures, training
    from dpnn_bridge.base.version import __version__
    from dpnn_bridge.conversion.convert import to_lua, to_torch
    from dpnn_bridge.conversion.lua_class import LuaClass
    from dpnn_bridge.conversion.places import lua_names, lua_paths, model_at
    from dpnn_bridge.conversion.registry import lua_class
    from dpnn_bridge.files import load, save, write_t7
    from dpnn_bridge.files.checkpoint import Checkpoint, load_checkpoint
    from dpnn_bridge.files.converting import convert
    from dpnn_bridge.files.summary import inspect
    from dpnn_bridge.legacy.loading import load_lua
    from dpnn_bridge.loaders.t7_reader import read_t7
    from dpnn_bridge.parity.api import verify
    from dpnn_bridge.porting.api import port
    from dpnn_bridge.training.flat_vector import load_flat

_MODULES = {
    "Checkpoint": "files.checkpoint",
    "LuaClass": "conversion.lua_class",
    "__version__": "base.version",
    "convert": "files.converting",
    "errors": ".",
    "inspect": "files.summary",
    "load": "files",
    "load_checkpoint": "files.checkpoint",
    "load_flat": "training.flat_vector",
    "load_lua": "legacy.loading",
    "lua_class": "conversion.registry",
    "lua_names": "conversion.places",
    "lua_paths": "conversion.places",
    "memory": ".",
    "model_at": "conversion.places",
    "optim": ".",
    "parity": ".",
    "pictures": ".",
    "port": "porting.api",
    "read_t7": "loaders.t7_reader",
    "save": "files",
    "to_lua": "conversion.convert",
    "to_torch": "conversion.convert",
    "training": ".",
    "verify": "parity.api",
    "write_t7": "files",
}

__all__ = [
    "Checkpoint",
    "LuaClass",
    "__version__",
    "convert",
    "errors",
    "inspect",
    "load",
    "load_checkpoint",
    "load_flat",
    "load_lua",
    "lua_class",
    "lua_names",
    "lua_paths",
    "memory",
    "model_at",
    "optim",
    "parity",
    "pictures",
    "port",
    "read_t7",
    "save",
    "to_lua",
    "to_torch",
    "training",
    "verify",
    "write_t7",
]

#: earlier name of a module or package -> current name
_MOVED = {
    "dpnn_bridge.checkpoint": "dpnn_bridge.files.checkpoint",
    "dpnn_bridge.converting": "dpnn_bridge.files.converting",
    "dpnn_bridge.executors": "dpnn_bridge.batch.executors",
    "dpnn_bridge.manifest": "dpnn_bridge.batch.manifest",
    "dpnn_bridge.modules.third_party": "dpnn_bridge.zoo",
    "dpnn_bridge.summary": "dpnn_bridge.files.summary",
}


class _MovedModules(MetaPathFinder, Loader):
    """Import finder for the names in :data:`_MOVED` and their submodules; both names import the same module object.

    It is in front of Python's own finder, which would import the modules of a moved package a second time.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if _current(fullname) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module = importlib.import_module(_current(spec.name))
        spec.loader_state = module.__spec__  # the import system replaces __spec__ before exec_module
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def _current(name: str) -> str:
    """Return the current name of a moved module, otherwise an empty string."""
    return next((new + name[len(old) :] for old, new in _MOVED.items() if f"{name}.".startswith(f"{old}.")), "")


def __getattr__(name: str) -> Any:
    # an import of this package must not wait for its own modules, which other threads may be importing
    from dpnn_bridge.base.lazy_exports import lazy_exports

    return lazy_exports(__name__, _MODULES)[0](name)


def __dir__() -> list[str]:
    return sorted(_MODULES)


sys.meta_path.insert(0, _MovedModules())
