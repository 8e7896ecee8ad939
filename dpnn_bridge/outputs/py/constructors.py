"""Convert modules to constructor calls."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dpnn_bridge.conversion.constructor import attribute_of, constructor_parameters
from dpnn_bridge.conversion.convert import to_lua
from dpnn_bridge.conversion.customized import overridden
from dpnn_bridge.conversion.lua_class import torch_types
from dpnn_bridge.conversion.parametrized import computed_weights, weight_hooks
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.conversion.registry import mapping_of
from dpnn_bridge.conversion.ties import plain_type
from dpnn_bridge.conversion.torch_context import TorchConversion
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.modules.nn.convolution import accept_size_input, size_from_second_input
from dpnn_bridge.modules.nn.nngraph import GModule
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.outputs.py.calls import Call, Value, code_of, literal
from dpnn_bridge.outputs.py.closure import SourceClosure
from dpnn_bridge.outputs.py.graphs import GraphClasses, kind_of, live_children
from dpnn_bridge.outputs.py.helpers import parametrized
from dpnn_bridge.outputs.py.lists import taking_lists

#: maximum number of elements of a ``state_dict`` tensor that is written with its values
MAX_LITERAL = 16


class Constructors:
    """Converts modules to constructor calls.

    Args:
        root: the model.
        closure: collects the definitions of classes that PyTorch does not have.
        shapes: ``id(module)`` -> shape of its output, for comments.

    Attributes:
        graphs: the classes of the graphs in the model.
        variables: ``id`` of each module that is used several times -> name of a variable.
        definitions: variables and their calls, each after the variables that it uses.
        added: containers, names and calls of children that no constructor adds with their names.
    """

    def __init__(self, root: nn.Module, closure: SourceClosure, shapes: dict[int, str]) -> None:
        self.closure, self.shapes = closure, shapes
        self.graphs = GraphClasses(self)
        self.variables: dict[int, str] = {}
        self.definitions: list[tuple[str, Call]] = []
        self.added: list[tuple[nn.Module, str, Value]] = []
        self._root = root
        self._state = {id(t) for t in root.state_dict(keep_vars=True).values()}
        self._listed = taking_lists(root)
        self._uses: Counter[int] = Counter()
        self._count(root)

    def _count(self, module: nn.Module) -> None:
        for child in _referenced(module):
            self._uses[id(child)] += 1
            if self._uses[id(child)] == 1:
                self._count(child)

    def value_of(self, module: nn.Module, path: str, hint: str = "") -> Value:
        """Return the call that creates a module, or a variable if the module is used several times.

        Args:
            module: the module.
            path: path of the module, for messages.
            hint: name for the class if the module is a graph.

        Raises:
            ConversionError: source code cannot express the module.
        """
        path = path.removeprefix(".")
        if id(module) in self.variables:
            return self.variables[id(module)]
        if weight_hooks(module):
            raise _computed(module, path)
        call = self._parametrized(module, path, hint) if parametrize.is_parametrized(module) else None
        call = call or self._call(module, path, hint)
        if self._uses[id(module)] > 1 and module is not self._root:
            variable = self.variables[id(module)] = self.closure.unique(f"shared_{kind_of(module)}")
            self.definitions.append((variable, call))
            return variable
        call.comment = self.shapes.get(id(module), "")
        return call

    def _parametrized(self, module: nn.Module, path: str, hint: str) -> Call:
        call = self._call(module, path, hint)
        entries: dict[str, Any] = dict(module.parametrizations.items())  # type: ignore[operator, union-attr]
        for name, parametrizations in entries.items():
            for parametrization in parametrizations:
                kind = type(parametrization)
                if kind.__name__ == "_WeightNorm":
                    options = {"name": (name, "weight"), "dim": (parametrization.dim, 0)}
                    given = {k: self._value(v, path) for k, (v, default) in options.items() if v != default}
                    call = Call("nn.utils.parametrizations.weight_norm", [call], given)
                elif kind.__module__.startswith("torch."):
                    raise _computed(module, path)
                else:
                    inner = self.value_of(parametrization, path)
                    call = Call(self.closure.add(parametrized), [call, literal(name), inner])
        return call

    def _call(self, module: nn.Module, path: str, hint: str) -> Call:
        if isinstance(module, GModule):
            return self.graphs.call(module, path, hint)
        kind = _sequence_of(module) or _plain_type(module)
        if isinstance(module, Placeholder) or kind.__module__.startswith("dpnn_bridge.lua."):
            raise ConversionError(
                ".py needs a PyTorch module for every class; register one for this class with @lua_class",
                path=path,
                class_name=getattr(module, "class_name", kind.__name__),
            )
        call = Call(self.closure.add(kind))
        members = iter(_numbered(module))
        for p in constructor_parameters(kind):
            if p.kind is p.VAR_POSITIONAL:
                values = module.__dict__.get(p.name)  # for example the sizes of View(*sizes)
                named = enumerate(values) if values is not None else members
                call.positional += [self._value(v, f"{path}.{n}") for n, v in named]
                continue
            value = self._argument(module, p, path, members)
            value = _simplified(module, p, value)
            if value is p.empty or _equal(value, p.default):
                continue
            text = self._value(value, f"{path}.{p.name}", f"{kind.__name__}{_camel(p.name)}")
            named = call.keywords or (not isinstance(value, nn.Module) and any(call.calls()))
            if p.default is p.empty and p.kind is not p.KEYWORD_ONLY and not named:
                call.positional.append(text)
            else:
                call.keywords[p.name] = text
        if isinstance(module, nn.RNN) and module.nonlinearity != "tanh":
            call.keywords["nonlinearity"] = literal(module.nonlinearity)
        if isinstance(module, nn.Sequential):
            self._add_members(module, path)
        if id(module) in self._listed and size_from_second_input in module._forward_pre_hooks.values():
            call = Call(self.closure.add(accept_size_input), [call])
        return call

    def _add_members(self, module: nn.Module, path: str) -> None:
        """Append the children of a container that the constructor does not add to ``added``."""
        numbered = dict(_numbered(module))
        for name, child in module._modules.items():
            if child is not None and name not in numbered:
                position = len(self.added)  # before the modules that are added to the child
                self.added.insert(position, (module, name, self.value_of(child, f"{path}.{name}")))

    def _argument(self, module: nn.Module, parameter: inspect.Parameter, path: str, members: Iterator[Any]) -> Any:
        """Return the value of a constructor argument, from an attribute, the next child, or Lua fields.

        Args:
            module: the module.
            parameter: the parameter of the constructor.
            path: path of the module, for messages.
            members: the remaining children.

        Returns:
            The value, or ``parameter.empty`` to omit the argument.

        Raises:
            ConversionError: a required value is unknown.
        """
        name = parameter.name
        value = getattr(module, attribute_of(type(module), name), parameter.empty)
        if inspect.ismethod(value):
            value = parameter.empty
        if value is parameter.empty and parameter.default is parameter.empty:
            mapping = mapping_of(module)
            takes_children = mapping.container and nn.Sequential not in torch_types(mapping)
            value = next(members, ("", parameter.empty))[1] if takes_children else parameter.empty
            if value is parameter.empty:
                value = _from_lua(module).get(name, parameter.empty)
            if value is parameter.empty:
                raise ConversionError(
                    f"the value of its constructor's argument {name!r} is unknown; store it in an attribute with "
                    "this name",
                    path=path,
                    class_name=type(module).__name__,
                )
        if isinstance(value, Tensor) and id(value) in self._state and isinstance(parameter.default, (int, float)):
            return parameter.empty  # the state_dict contains the value
        if name == "bias" and not isinstance(value, bool) and value is not parameter.empty:
            return value is not None
        return value

    def _value(self, value: Any, path: str, hint: str = "") -> Value:
        path = path.removeprefix(".")
        if type(value) is nn.ModuleList:
            return self._value(list(value), path)
        if isinstance(value, nn.Module):
            return self.value_of(value, path, hint)
        if value is None or isinstance(value, (bool, int, float, str, torch.dtype)):
            return literal(value)
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, tuple):
            inner = [self._value(v, path) for v in value]
            return f"({', '.join(code_of(v) for v in inner)}{',' if len(inner) == 1 else ''})"
        if isinstance(value, list):
            return Call("", [self._value(v, f"{path}[{i}]") for i, v in enumerate(value)])
        if isinstance(value, (LuaTable, dict)):
            entries = [f"{code_of(self._value(k, path))}: {code_of(self._value(v, path))}" for k, v in value.items()]
            return f"{{{', '.join(entries)}}}"
        raise ConversionError(f"a {type(value).__name__} cannot be written as Python code", path=path)

    def _tensor(self, value: Tensor) -> str:
        dtype = "" if value.dtype in (torch.float32, torch.int64) else f", dtype={value.dtype}"
        if id(value) in self._state and value.numel() > MAX_LITERAL:
            dtype = ", dtype=torch.int64" if value.dtype == torch.int64 else dtype
            return f"torch.ones({', '.join(map(str, value.shape))}{dtype})"
        return f"torch.tensor({_elements(value.detach().cpu().tolist())}{dtype})"


def _elements(value: Any) -> str:
    """Return the source code of nested lists of numbers."""
    return f"[{', '.join(map(_elements, value))}]" if isinstance(value, list) else literal(value)


def _referenced(module: nn.Module) -> list[nn.Module]:
    """Return the children of a module, and the modules in its other attributes."""
    if isinstance(module, GModule):
        return live_children(module)
    others = [v for v in vars(module).values() if isinstance(v, nn.Module)]
    return [m for m in module._modules.values() if m is not None] + others


def _numbered(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the children that a constructor names 0, 1, 2, …; in a sequence, those before the first other name."""
    members = list(module._modules.items())
    if isinstance(module, nn.Sequential):
        members = [m for _, m in takewhile(lambda m: m[1][0] == str(m[0]), enumerate(members))]
    return [(n, m) for n, m in members if m is not None and n.isdigit()]


def _plain_type(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module before its tensors were tied or parametrized."""
    return plain_type(parametrize.type_before_parametrizations(module))


def _sequence_of(module: nn.Module) -> type[nn.Module] | None:
    """Return ``nn.Sequential`` for a subclass whose constructor only creates children; None for other modules."""
    if type(module) is nn.Sequential or nn.Sequential not in torch_types(mapping_of(module)):
        return None
    takes_members = any(p.kind is p.VAR_POSITIONAL for p in constructor_parameters(type(module)))
    return nn.Sequential if not takes_members and overridden(module, (nn.Sequential,)) is None else None


def _computed(module: nn.Module, path: str) -> ConversionError:
    """Return the error for a weight whose computation source code cannot express."""
    name, kind, call = computed_weights(module)[-1]
    return ConversionError(
        f"{kind} computes its {name}, which .py does not support (it supports "
        f"torch.nn.utils.parametrizations.weight_norm, and parametrizations of your own classes); "
        f"make the {name} an ordinary tensor with {call}",
        path=path,
        class_name=_plain_type(module).__name__,
    )


def _from_lua(module: nn.Module) -> dict[str, Any]:
    """Return the constructor arguments, except modules, that the mapping derives from the module's Lua fields."""
    mapping = mapping_of(module)
    try:
        arguments = mapping.arguments(mapping.upgrade(to_lua(module, gradients=False)), TorchConversion())
    except (ConversionError, KeyError):
        return {}
    return {k: v for k, v in arguments.items() if not isinstance(v, nn.Module)}


#: files of PyTorch with modules that accept one number instead of a tuple of equal numbers
_SIZED = (nn.modules.pooling.__name__, nn.modules.padding.__name__)


def _simplified(module: nn.Module, parameter: inspect.Parameter, value: Any) -> Any:
    """Return a shorter equivalent of an argument, such as 3 for (3, 3) in PyTorch's layers.

    (None, None) is kept, because None has another meaning.
    """
    home = type(module).__module__
    if home == nn.modules.pooling.__name__ and parameter.name == "stride" and value == module.kernel_size:
        return None
    sized = isinstance(module, nn.modules.conv._ConvNd) or home in _SIZED
    return value[0] if sized and isinstance(value, tuple) and len(set(value)) == 1 and value[0] is not None else value


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _equal(value: Any, default: Any) -> bool:
    """Return whether a value is the default. An int and a float may be equal, True and 1 are not."""
    if type(value) is not type(default) and {type(value), type(default)} != {int, float}:
        return False
    return not isinstance(value, Tensor) and value == default
