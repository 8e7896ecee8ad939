"""Encode a model as the content of a ``.pt`` file, and decode it.

The content is ``{format, version, graph, constants, state_dict, metadata}``, plain data for ``weights_only=True``.
``graph`` is the graph of the model's Lua objects without tensors, as JSON (a pickled graph takes 20 times as long)::

    {"root": value, "nodes": [node, …], "flat": {module: {field: [storage, length, start, size]}},
     "unmapped": [name of a module, …], "names": {module: [name of a child, …]}, "frozen": [name of a parameter, …]}

    value    null, boolean, number, string, or [i], which refers to nodes[i]
    node     {"table": [[key, value], …]}
             {"object": class name, "version": int, "payload": value, "header": [value, …], "mapping": text}
             {"tensor": class name, "shape": […], "stride": […], "offset": int, "storage": value}
             {"storage": class name, "size": int, "key": name in state_dict}      a parameter or buffer
             {"storage": class name, "size": int, "data": i}                      constants[i], a 1-D tensor
             {"storage": class name, "size": int}                                 other memory layout in state_dict
             {"bytes": i}                                                         constants[i], a 1-D uint8 tensor

Optional parts:

- ``mapping``: the plugin or Lua file of a user that converts the object.
- ``flat``: the positions of tensors in flat storages of the ``.t7`` file.
- ``unmapped``: the modules that were placeholders or ran in Lua; their tensors are constants.
- ``names``: the names of the children of each ``nn.Sequential`` with other names than 0, 1, 2, …
- ``frozen``: the parameters with ``requires_grad=False``.

Loading creates the module from the graph by the class mappings, as from a ``.t7`` file, and then sets the tensors of
``state_dict``. See docs/pt-format.md.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import nn

from dpnn_bridge.base.display import described
from dpnn_bridge.base.storage import storage_elements
from dpnn_bridge.compare.bits import same_bits
from dpnn_bridge.conversion.budget import PER_ENTRY
from dpnn_bridge.conversion.customized import check_customized
from dpnn_bridge.conversion.flat import set_places, stored_places
from dpnn_bridge.conversion.lua_context import LuaConversion
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.conversion.registry import mapping_of
from dpnn_bridge.conversion.report import Report
from dpnn_bridge.conversion.stock import StockLayer, check_parametrizations
from dpnn_bridge.conversion.torch_context import TorchConversion
from dpnn_bridge.errors import COPY_AGAIN, ConversionError, T7FormatError
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor
from dpnn_bridge.outputs.decoded import decode
from dpnn_bridge.outputs.placeholders import check_placeholders, with_placeholders
from dpnn_bridge.outputs.plain import unrepeated
from dpnn_bridge.outputs.reloaded import check_loads

FORMAT = "dpnn_bridge"
VERSION = 1
#: characters of a string that count as one value in :func:`is_small`
_CHARACTERS_PER_VALUE = 16
#: number of values that any file may have
_MAX_SIZE = 1 << 21


def pack(module: nn.Module, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the content of a ``.pt`` file for ``module``.

    Raises:
        ConversionError: a submodule has no Lua class, or computes more than its class does (a hook, a replaced
            ``forward``).
    """
    check_customized(module, "a .pt or .safetensors file", complete=True)
    for path, part in module.named_modules():
        mapping = StockLayer if StockLayer.stores(part) else mapping_of(part)
        check_parametrizations(part, mapping.fields_of(part).values(), path)
    state_dict = {k: unrepeated(v.detach()) for k, v in module.state_dict().items()}
    ctx = LuaConversion(gradients=False, compose=False)
    root = ctx.to_lua(module)
    names: dict[int, str] = {}
    for name, tensor in [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]:
        if name in state_dict:
            names.setdefault(id(tensor), name)
    for part in module.modules():
        if isinstance(part, Placeholder):  # is created with constants, shared weights included
            for tensor in (*part.parameters(), *part.buffers()):
                names.pop(id(tensor), None)
    keys = {storage: names[id(tensor)] for storage, tensor in ctx.sources.items() if id(tensor) in names}
    encoder = _Encoder(keys, ctx)
    return {
        "format": FORMAT,
        "version": VERSION,
        "graph": json.dumps(encoder.encode(root) | _optional_parts(module)),
        "constants": encoder.constants,
        "state_dict": state_dict,
        "metadata": metadata or {},
    }


def unpack(content: Any, options: Options, source: str = "") -> tuple[nn.Module, Report]:
    """Return the module in the content of a ``.pt`` file, and the report of its conversion.

    Raises:
        ConversionError: the content has another format, or a newer version of the format.
        T7FormatError: the content is damaged.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConversionError(
            f"{source or 'the file'} contains no model of dpnn_bridge; read it with torch.load, "
            "load the weights into your model, and pass the model to dpnn_bridge.save or write_t7"
        )
    version = content.get("version", 0)
    if type(version) is not int or version > VERSION:
        raise ConversionError(
            f"{source}: the format version is {described(version)}, and this dpnn_bridge reads versions up to "
            f"{VERSION}; install a newer one"
        )
    module, report, flat, tensors = _rebuild(content, options, source)
    load_tensors(module, tensors, source)
    set_places(module, flat)
    return module, report


def check(content: Any, module: nn.Module) -> None:
    """Check that the content of a ``.pt`` file loads as the written module; elements are not compared.

    Args:
        content: content read from the file; its tensors may be on the device ``meta``.
        module: the written module.

    Raises:
        ConversionError: see :func:`~dpnn_bridge.outputs.reloaded.check_loads`.
    """
    check_loads(module, lambda options: _rebuild(content, options, "")[0])


def without_checkpoint(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata without the other entries of the checkpoint, which may contain shared tables many times."""
    return {k: v for k, v in metadata.items() if k != "checkpoint"}


def is_small(value: Any) -> bool:
    """Return whether plain data has a bounded size when it is printed, where a shared value is printed at each use."""
    sizes: dict[int, int] = {}
    entries = 0

    def size(value: Any) -> int:
        nonlocal entries
        if not isinstance(value, (str, bytes, dict, list, tuple, torch.Tensor)):
            return 1 + (value.bit_length() // (3 * _CHARACTERS_PER_VALUE) if isinstance(value, int) else 0)
        if id(value) in sizes:  # the file contains it once
            return sizes[id(value)]
        if isinstance(value, (str, bytes)):
            own = total = len(value) // _CHARACTERS_PER_VALUE
            if not own:
                return 1
        elif isinstance(value, torch.Tensor):
            own = min(value.numel(), storage_elements(value))  # nor does it repeat an expanded element
            total = value.numel()
        elif isinstance(value, dict):
            own, total = len(value), sum(map(size, (*value, *value.values())))
        else:
            own, total = len(value), sum(map(size, value))
        entries += own
        sizes[id(value)] = 1 + total
        return 1 + total

    return size(value) <= _MAX_SIZE + PER_ENTRY * entries


def meta_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the ``state_dict`` of a module with tensors on the device ``meta``."""
    return {n: torch.empty(t.shape, dtype=t.dtype, device="meta") for n, t in module.state_dict().items()}


def _rebuild(
    content: dict[str, Any], options: Options, source: str
) -> tuple[nn.Module, Report, Any, dict[str, torch.Tensor]]:
    """Create the module of a graph, without loading its tensors.

    Returns:
        The module, the report of its conversion, the graph's ``flat``, and the tensors to load.
    """
    try:
        state_dict, metadata = content["state_dict"], content["metadata"]
        graph = decode(content["graph"], content["constants"], state_dict)
        if not isinstance(graph.root, LuaObject):
            raise TypeError(f"its root is a {type(graph.root).__name__}, expected an object")
        if not isinstance(metadata, dict) or not is_small(without_checkpoint(metadata)):
            raise TypeError("the metadata is not a dict, or contains a shared table too often")
    except (LookupError, TypeError, ValueError) as e:
        message = f"the object graph is damaged ({type(e).__name__}: {str(e)[:300]}); convert the .t7 file again"
        raise T7FormatError(message, source=source) from e
    ctx = TorchConversion(options)
    ctx.mapped_by = graph.mapped_by
    module = ctx.to_torch(graph.root)
    ctx.finish()
    _name_children(module, graph.names, source)
    former = tuple(f"{name}." if name else "" for name in graph.unmapped)  # may have other parameters now
    frozen = graph.frozen
    for name, parameter in module.named_parameters() if frozen is not None else ():
        is_frozen = name in frozen  # type: ignore[operator]
        if parameter.is_floating_point() and (is_frozen or not name.startswith(former)):
            parameter.requires_grad_(not is_frozen)
    ctx.report.metadata = metadata
    return module, ctx.report, graph.flat, with_placeholders(module, graph.unmapped, state_dict)


def _optional_parts(module: nn.Module) -> dict[str, Any]:
    """Return ``frozen`` of a graph, and ``flat``, ``unmapped`` and ``names`` if they are not empty."""
    unmapped = [name for name, part in module.named_modules() if isinstance(part, Placeholder)]
    sequences = {name: part for name, part in module.named_modules() if isinstance(part, nn.Sequential)}
    children = {path: [n for n, m in part._modules.items() if m is not None] for path, part in sequences.items()}
    names = {path: own for path, own in children.items() if own != [str(i) for i in range(len(own))]}
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    found = {"flat": stored_places(module), "unmapped": unmapped, "names": names}
    return {name: value for name, value in found.items() if value} | {"frozen": frozen}


def _name_children(module: nn.Module, names: dict[str, list[str]], source: str) -> None:
    """Rename the children of each ``nn.Sequential``, from the outside in.

    A module that does not exist or has another number of children is skipped: inside a former placeholder that is no
    error. In other modules :func:`load_tensors` finds the difference.
    """
    for path, own in names.items():
        try:
            part = module.get_submodule(path)
        except AttributeError:
            continue
        children = list(part._modules.values())
        if not isinstance(part, nn.Sequential) or len(children) != len(own):
            continue
        part._modules.clear()
        try:
            for name, child in zip(own, children, strict=True):
                part.add_module(name, child)
            if len(part._modules) != len(own):
                raise KeyError("two children have the same name")
        except KeyError as e:
            message = f"the object graph is damaged (names: {str(e)[:300]}); convert the .t7 file again"
            raise T7FormatError(message, source=source) from e


def load_tensors(module: nn.Module, state_dict: dict[str, torch.Tensor], source: str) -> None:
    """Set the parameters and buffers of a module to the tensors of ``state_dict``, without copies.

    Raises:
        T7FormatError: names, shapes or types differ from the module's, or ``state_dict`` has different values for the
            names of a shared parameter.
    """
    own = module.state_dict(keep_vars=True)
    check_placeholders(module, state_dict.keys() - own.keys(), source)
    if own.keys() != state_dict.keys():
        missing, extra = sorted(own.keys() - state_dict.keys()), sorted(state_dict.keys() - own.keys())
        raise T7FormatError(
            f"damaged: state_dict does not fit the graph: missing {missing}, unexpected {extra}; {COPY_AGAIN}",
            source=source,
        )
    done: dict[int, str] = {}
    for name in state_dict:
        tensor = own[name]
        if tensor.shape != state_dict[name].shape:
            shapes = f"{tuple(state_dict[name].shape)}, but {tuple(tensor.shape)}"
            raise T7FormatError(f"damaged: {name} has the shape {shapes} in the graph; {COPY_AGAIN}", source=source)
        if isinstance(tensor, nn.Parameter) and tensor.is_floating_point() != state_dict[name].is_floating_point():
            found = state_dict[name].dtype
            raise T7FormatError(f"damaged: {name} is of type {found}; {COPY_AGAIN}", source=source)
        first = done.setdefault(id(tensor), name)
        if first == name:
            tensor.data = state_dict[name]
        elif not _same_memory(tensor, state_dict[name]) and not same_bits(tensor, state_dict[name]):
            raise T7FormatError(
                f"{first} and {name} are the same parameter of the model, but have different values in the file; store "
                "the same values for both",
                source=source,
            )
    own_types = (m for m in module.modules() if mapping_of(m).keeps_types)
    others = {id(p) for m in own_types for p in m.parameters()}
    if {p.dtype for p in module.parameters() if p.is_floating_point() and id(p) not in others} == {torch.bfloat16}:
        kept = set(map(id, own.values()))  # Lua has no bfloat16, so other buffers have another type in the metadata
        module._apply(lambda t: t if id(t) in kept or not t.is_floating_point() else t.to(torch.bfloat16))


def _same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.is_meta or b.is_meta or (a.data_ptr() == b.data_ptr() and a.stride() == b.stride() and a.dtype == b.dtype)


class _Encoder:
    """Encodes a graph of Lua objects.

    Args:
        keys: ``id(storage)`` -> name in ``state_dict``.
        ctx: the conversion that created the objects.

    Attributes:
        constants: tensors that the graph refers to.
    """

    def __init__(self, keys: dict[int, str], ctx: LuaConversion) -> None:
        self._keys, self._derived, self._mapped_by = keys, ctx.derived, ctx.mapped_by
        self._nodes: list[dict[str, Any]] = []
        self._index: dict[int, int] = {}
        self._alive: list[Any] = []
        self.constants: list[torch.Tensor] = []

    def encode(self, root: Any) -> dict[str, Any]:
        """Return ``root`` and ``nodes`` of the graph."""
        stack: list[tuple[dict[str, Any], Any]] = []
        value = self._value(root, stack)
        while stack:
            node, obj = stack.pop()
            if isinstance(obj, LuaTable):
                node["table"] = [[self._value(k, stack), self._value(v, stack)] for k, v in obj.items()]
            elif isinstance(obj, LuaObject):
                node["payload"] = self._value(obj.payload, stack)
                node["header"] = [self._value(v, stack) for v in obj.header]
            elif isinstance(obj, LuaTensor):
                node["storage"] = self._value(obj.storage, stack)
        return {"root": value, "nodes": self._nodes}

    def _value(self, value: Any, stack: list[tuple[dict[str, Any], Any]]) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if id(value) in self._index:
            return [self._index[id(value)]]
        node: dict[str, Any]
        if isinstance(value, LuaTable):
            node = {"table": []}
        elif isinstance(value, LuaObject):
            node = {"object": value.class_name, "version": value.version}
            if id(value) in self._mapped_by:
                node["mapping"] = self._mapped_by[id(value)]
        elif isinstance(value, LuaTensor):
            node = {
                "tensor": value.class_name,
                "shape": list(value.shape),
                "stride": list(value.stride),
                "offset": value.offset,
            }
        elif isinstance(value, LuaStorage):
            node = {"storage": value.class_name, "size": value.size}
            if id(value) in self._keys:
                node["key"] = self._keys[id(value)]
            elif id(value) not in self._derived:
                node["data"] = self._constant(value.torch())
        elif isinstance(value, bytes):
            node = {"bytes": self._constant(torch.from_numpy(np.frombuffer(value, np.uint8).copy()))}
        elif isinstance(value, LuaFunction):
            return None
        else:
            raise ConversionError(f"a {type(value).__name__} cannot be stored in a .pt file")
        self._index[id(value)] = len(self._nodes)
        self._nodes.append(node)
        self._alive.append(value)
        stack.append((node, value))
        return [self._index[id(value)]]

    def _constant(self, tensor: torch.Tensor) -> int:
        self.constants.append(tensor)
        return len(self.constants) - 1
