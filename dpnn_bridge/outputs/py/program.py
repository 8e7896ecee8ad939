"""Generate the source code of a ``.py`` output, which imports only PyTorch.

The file contains ``build()``, which creates the model; ``load(path)``, which also loads its weights; a class for each
nngraph graph; and the source code of every class that PyTorch does not have.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.exclusive import Exclusive
from dpnn_bridge.compare.memory import copied
from dpnn_bridge.conversion.customized import check_customized
from dpnn_bridge.conversion.registry import mapped_by, mapping_of
from dpnn_bridge.errors import ConversionError, VerificationError
from dpnn_bridge.modules.nn.batch_normalization import accept_single_samples
from dpnn_bridge.modules.rnn.stock import stock_layers
from dpnn_bridge.outputs.format import ExportContext
from dpnn_bridge.outputs.py.calls import Call, blocks, in_docstring, indented, literal, text_of, without_repeats
from dpnn_bridge.outputs.py.closure import SourceClosure
from dpnn_bridge.outputs.py.constructors import Constructors
from dpnn_bridge.outputs.py.helpers import load_weights, tie
from dpnn_bridge.outputs.py.settings import Pair, settings
from dpnn_bridge.outputs.reloaded import not_rebuilt
from dpnn_bridge.outputs.verification import run_given

HEADER = """{title} as a PyTorch module, written by dpnn_bridge.

    model = load("model.pt")    # dpnn-convert {source} model.pt writes the weights
"""

STOCK = """Recurrent layers that torch.nn computes as well, with other names and another order of the gates:

    model = dpnn_bridge.load({arguments})"""
#: maximum number of recurrent layers that the docstring lists
MAX_STOCK = 8

LOAD = '''
def load(path: str) -> nn.Module:
    """The model with the weights of a ``.pt``, ``.safetensors`` or ``.npz`` file that dpnn_bridge wrote."""
    if str(path).endswith(".safetensors"):
        from safetensors.torch import load_file

        weights = load_file(path)
    elif str(path).endswith(".npz"):
        import numpy

        weights = {name: torch.from_numpy(array) for name, array in numpy.load(path).items()}
    else:
        weights = torch.load(path, weights_only=True)["state_dict"]
    model = build()
    load_weights(model, weights)
    return model
'''

LAYERS = "# ---------------------------------------------------------------------- what PyTorch does not have"


@contextmanager
def initial_defaults() -> Iterator[None]:
    """Use the default dtype and device of a new process inside the ``with`` block, in one thread at a time.

    Then restore the caller's defaults, and the state of the random generators.
    """
    with Exclusive(initial_defaults):
        dtype = torch.get_default_dtype()
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
        torch.set_default_dtype(torch.float32)
        try:
            with torch.random.fork_rng(devices), torch.device("cpu"):
                yield
        finally:
            torch.set_default_dtype(dtype)


class Program:
    """The source code of a model.

    Args:
        module: the model.
        context: its ``example`` gives the shapes in comments, its ``metadata`` the names in the docstring.

    Raises:
        ConversionError: source code cannot express the model.
    """

    def __init__(self, module: nn.Module, context: ExportContext) -> None:
        check_customized(module, "a .py file", with_classes=True)
        self._module, self._context, self._closure = module, context, SourceClosure()
        self._closure.add(load_weights)
        self._shapes, shapes = ("", {}) if context.example is None else _shapes(module, context.example)
        self._constructors = Constructors(module, self._closure, shapes)
        self._call = self._constructors.value_of(module, "")
        defined = [call for _, call in self._constructors.definitions]
        added = [call for _, _, call in self._constructors.added]
        roots = [Call("", [*defined, self._call, *added]), *self._constructors.graphs.calls()]
        self._blocks = blocks(roots, self._constructors.variables.values())
        self._paths = _paths(module, self._constructors.graphs.names)

    def text(self) -> str:
        """Return the source code. It is run once to determine the statements that set up the created model."""
        namespace: dict[str, Any] = {"__name__": "__main__"}  # a module that exists, which dataclasses look up
        with initial_defaults():
            try:
                exec(compile(self._text([]), "<generated>", "exec"), namespace)
                built = namespace["build"]()
            except (TypeError, ValueError, RuntimeError, AttributeError, NameError, IndexError, KeyError) as e:
                reason = f"{type(e).__name__}: {e}"
                raise ConversionError(
                    f"the generated Python code does not build the model: {reason}. The code contains copies of "
                    "classes, not their files: if a plugin uses its own file (__file__), remove this, or write .pt"
                ) from e
            changes = settings(self.pairs(built))
        return self._text(changes)

    def definitions(self) -> str:
        """Return the source code without the statements that :meth:`text` adds to ``build`` after running it."""
        return self._text([])

    def packages(self) -> list[str]:
        """Return the packages besides PyTorch that the classes import, see :meth:`SourceClosure.packages`."""
        return self._closure.packages()

    def pairs(self, built: nn.Module, file: Path | None = None) -> list[Pair]:
        """Pair the modules of the model with the modules of ``built``, which this program, or ``file``, created.

        Raises:
            ConversionError: ``built`` lacks a module.
            VerificationError: ``built`` lacks a module, and the user may have changed ``file``.
        """
        modules = {id(m): m for m in self._module.modules()}
        pairs: list[Pair] = []
        for i, path in self._paths.items():
            try:
                found = eval(path, {"model": built})
            except (AttributeError, LookupError, TypeError):  # no layer, or one without elements
                found = None
            if isinstance(found, nn.Module):
                pairs.append(Pair(path, modules[i], found))
            else:
                name = next(name for name, m in self._module.named_modules() if m is modules[i])
                if file is not None:
                    raise VerificationError(f"{file} creates no {name} ({type(modules[i]).__name__})")
                raise not_rebuilt(self._module, name, "a .py file")
        return pairs

    def _text(self, settings: list[str]) -> str:
        for helper in (tie, accept_single_samples):
            if any(line.startswith(f"{helper.__name__}(") for line in settings):
                self._closure.add(helper)
        layers = self._closure.definitions()
        graph = layers.pop("Graph", None)
        classes = [*([graph] if graph else []), *self._constructors.graphs.definitions()]
        parts = [*classes, *self._blocks, self._build(settings), LOAD, LAYERS, *layers.values()]
        code = "\n\n\n".join(p.strip("\n") for p in parts)
        return (
            f'"""{self._header()}"""\n\nfrom __future__ import annotations\n\n{self._closure.imports()}\n\n\n{code}\n'
        )

    def _header(self) -> str:
        metadata = self._context.metadata
        source = in_docstring(metadata.get("source") or "model.t7")
        title = source if metadata.get("source") else type(self._module).__name__
        title = f"{in_docstring(metadata['key'])} of {title}" if metadata.get("key") else title
        plugins = sorted({by for m in self._module.modules() if (by := mapped_by(mapping_of(m)))})
        more = [
            self._shapes,
            self._stock(),
            f"Classes of plugins: {in_docstring(', '.join(plugins))}." if plugins else "",
        ]
        return HEADER.format(title=title, source=source) + "".join(f"\n{text}\n" for text in more if text)

    def _stock(self) -> str:
        """Return the text about recurrent layers that can be converted to ``torch.nn``, with other weight layouts."""
        lines = []
        for name, layer in islice(stock_layers(self._module), MAX_STOCK):
            expression = f"model.get_submodule({in_docstring(literal(name))})" if name else "model"
            lines.append(f"    dpnn_bridge.memory.to_stock({expression})    # {layer}")
        source, key = (self._context.metadata.get(name) for name in ("source", "key"))
        arguments = f"{source or 'model.t7'!r}" + (f", key={key!r}" if key else "")
        return "\n".join([STOCK.format(arguments=in_docstring(arguments)), *lines]) if lines else ""

    def _build(self, settings: list[str]) -> str:
        lines = [f"{name} = {text_of(call)}" for name, call in self._constructors.definitions]
        added = [
            f"{self._paths[id(owner)]}.add_module({literal(name)}, {text_of(call)})"
            for owner, name, call in self._constructors.added
        ]
        if added or settings:
            lines += [f"model = {text_of(self._call)}", *added, *settings, "return model"]
        else:
            lines += [f"return {text_of(self._call)}"]
        body = without_repeats("\n".join(['"""The model with fresh weights."""', *lines]))
        return f"def build() -> nn.Module:\n{indented(body)}"


def _paths(root: nn.Module, graphs: dict[int, dict[str, str]]) -> dict[int, str]:
    """Return ``id`` of each module -> expression for the module in the program, such as ``model[0].conv``.

    Args:
        root: the model.
        graphs: :attr:`GraphClasses.names`.
    """
    paths: dict[int, str] = {}

    def visit(module: nn.Module, path: str) -> None:
        if id(module) in paths:
            return
        paths[id(module)] = path
        for position, (name, child) in enumerate(module._modules.items()):
            if id(module) in graphs:
                name = graphs[id(module)].get(name, "")
            if child is None or not name:
                continue
            if name == str(position) and isinstance(module, (nn.Sequential, nn.ModuleList)):
                visit(child, f"{path}[{name}]")
            else:
                is_name = name.isidentifier() and name.isascii() and not keyword.iskeyword(name)
                visit(child, f"{path}.{name}" if is_name else f"{path}._modules[{literal(name)}]")

    visit(root, "model")
    return paths


def _shapes(module: nn.Module, example: Any) -> tuple[str, dict[int, str]]:
    """Run a model on an example to determine shapes.

    Returns:
        Text about the shapes of input and output; ``id`` of each module -> shape of its output, empty if it varies.
    """
    shapes: dict[int, str] = {}

    def recording(key: int) -> Callable[..., None]:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            shape = shape_of(output) if isinstance(output, Tensor) else ""
            shapes[key] = shape if shapes.get(key, shape) == shape else ""

        return record

    model = copied(module).eval()
    for original, copy in zip(module.modules(), model.modules(), strict=True):
        copy.register_forward_hook(recording(id(original)))
    output = run_given(model, example)
    return f"Input: {shape_of(example)}; output: {shape_of(output)}.", shapes


def shape_of(value: Any) -> str:
    """Return the shape of a tensor, or the shapes in a list of at most six tensors; empty for other values."""
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    if isinstance(value, (list, tuple)):
        parts = [shape_of(v) for v in value]
        return f"[{', '.join(parts)}]" if len(parts) <= 6 and all(parts) else ""
    return ""
