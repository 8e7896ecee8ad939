"""Follow the tuples of PyTorch's recurrent layers, whose Lua modules return only the output."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

from torch import nn

from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.lua_class import PlainModule
from dpnn_bridge.errors import EXPORT_GUIDE, ConversionError


class _Tuple(NamedTuple):
    """The value ``(output, state)`` of a recurrent layer, or a list that contains such a value."""

    layer: nn.Module
    is_inside: bool = False


def output_selections(root: nn.Module) -> dict[int, nn.Module]:
    """Return ``id`` of each layer that selects the output of a recurrent layer -> the identity as which it is written.

    Raises:
        ConversionError: another layer gets the tuple of a recurrent layer.
    """
    if not any(map(_returns_tuple, root.modules())):
        return {}
    uses = _Uses(root)
    uses.output_of(root, None)
    return uses.selections


def _returns_tuple(module: nn.Module) -> bool:
    return isinstance(module, nn.RNNBase) and registry.mapping_of(module) is PlainModule


class _Uses:
    def __init__(self, root: nn.Module) -> None:
        self.selections: dict[int, nn.Module] = {}
        self._selected: dict[int, _Tuple] = {}
        self._of_tables: set[int] = set()
        self._paths = {id(module): path for path, module in root.named_modules()}
        self._outputs: dict[tuple[int, _Tuple | None], _Tuple | None] = {}

    def output_of(self, module: nn.Module, value: _Tuple | None) -> _Tuple | None:
        """Return the tuple that a module returns for ``value``; None if its output contains no such tuple."""
        use = (id(module), value)
        if use not in self._outputs:
            self._outputs[use] = None
            self._outputs[use] = self._find_output(module, value)
        return self._outputs[use]

    def _find_output(self, module: nn.Module, value: _Tuple | None) -> _Tuple | None:
        if _returns_tuple(module):
            return _Tuple(module) if value is None else self._refuse(module, value)
        mapping = registry.mapping_of(module)
        is_exact = mapping.torch_type is type(module)
        children = mapping.children(module)
        if "nn.Sequential" in mapping.names or (mapping is PlainModule and len(children) == 1):  # such as DataParallel
            for child in children:
                value = self.output_of(child, value)
            return value
        if mapping.is_graph:
            return self._output_of_graph(module, value)
        if "nn.SelectTable" in mapping.names and is_exact:
            return self._output_of_selection(module, value)
        if value is not None:
            if type(module) is nn.Identity:
                return value
            if "nn.ConcatTable" not in mapping.names:
                self._refuse(module, value)
        found = [output for child in children if (output := self.output_of(child, value)) is not None]
        return _Tuple(found[0].layer, is_inside=True) if found and registry.is_built_in(mapping) else None

    def _output_of_selection(self, module: Any, value: _Tuple | None) -> None:
        if value is None:
            self._of_tables.add(id(module))
        elif value.is_inside or module.index not in (1, -2):
            self._refuse(module, value)
        else:
            self.selections[id(module)] = nn.Identity().train(module.training)
            self._selected[id(module)] = value
        if id(module) in self._of_tables and id(module) in self._selected:
            layer = self._name_of(self._selected[id(module)])
            raise self._error(
                module,
                f"it selects from the tuple (output, state) of {layer}, whose Lua module returns only the output, and "
                "in another place from a table; use two SelectTable objects",
            )

    def _output_of_graph(self, graph: Any, value: _Tuple | None) -> _Tuple | None:
        values: list[_Tuple | None] = []
        for i, node in enumerate(graph.nodes):
            given = [values[source] for source in node.inputs]
            found = next((v for v in given if v is not None), None)
            if i == graph.input_node:
                found = value
            elif found is not None and len(given) > 1:
                found = _Tuple(found.layer, is_inside=True)
            if node.module is not None:
                found = self.output_of(graph.get_submodule(node.module), found)
            elif found is not None and (node.select is not None or node.splits is not None):
                self._refuse(graph, found)
            values.append(found)
        return values[graph.output_node]

    def _refuse(self, module: nn.Module, value: _Tuple) -> NoReturn:
        """Raise the error for a module that gets the tuple of a recurrent layer."""
        raise self._error(
            module,
            f"its input contains the tuple (output, state) of {self._name_of(value)}, and the Lua module of that layer "
            f"returns only the output; select the output directly after the layer, with SelectTable(1); see "
            f"{EXPORT_GUIDE}",
        )

    def _name_of(self, value: _Tuple) -> str:
        return f"{self._paths[id(value.layer)]} ({type(value.layer).__name__})"

    def _error(self, module: nn.Module, message: str) -> ConversionError:
        return ConversionError(message, path=self._paths[id(module)], class_name=type(module).__name__)
