"""``.py``: a readable definition of the model that needs only torch and loads the ``state_dict``.

The file holds the source of every class that is not stock PyTorch, and a function ``build()``::

    model = build()
    model.load_state_dict(torch.load("model.pt", weights_only=True)["state_dict"])
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import runpy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dpnn_bridge.conversion import to_lua
from dpnn_bridge.errors import ConversionError, VerificationError
from dpnn_bridge.export import Job
from dpnn_bridge.export.compare import run, same_outputs, same_tensors
from dpnn_bridge.export.source_closure import SourceClosure
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.registry import spec_of
from dpnn_bridge.ties import plain_type
from dpnn_bridge.torch_context import TorchContext

HEADER = '''"""{title}, converted from Torch7 by dpnn_bridge. Needs only PyTorch.

    model = build()
    model.load_state_dict(torch.load("model.pt", weights_only=True)["state_dict"])
"""

from __future__ import annotations
'''

TIE = '''
def tie(module, name, source, source_name, size, stride, offset, shape):
    """Makes ``module.name`` a view of a parameter of ``source``, computed whenever it is read."""

    def view(self):
        source = self.__dict__["tied_to"][name]
        elements = getattr(source, source_name).reshape(-1)
        return elements.as_strided(size, stride, offset).reshape(shape)

    del module._parameters[name]
    module.__dict__.setdefault("tied_to", {})[name] = source
    module.__class__ = type(type(module).__name__, (type(module),), {name: property(view)})
'''


def write(module: nn.Module, path: Path, job: Job) -> None:
    source = job.metadata.get("source") or type(module).__name__
    path.write_text(_Generator(module).program(str(source)))


def verify(module: nn.Module, path: Path, job: Job) -> None:
    try:
        built = runpy.run_path(str(path))["build"]()
        built.load_state_dict(module.state_dict())
    except Exception as e:
        raise VerificationError(f"the generated Python does not rebuild the model: {type(e).__name__}: {e}") from e
    for (name, a), (_, b) in zip(module.named_modules(), built.named_modules(), strict=True):
        if type(a).__name__ != type(b).__name__ or a.extra_repr() != b.extra_repr() or a.training != b.training:
            raise VerificationError(f"the generated Python builds {b!r} at {name!r} instead of {a!r}")
    reason = "its type or value does not follow from the arguments of constructors, so .py cannot hold this model"
    same_tensors(path, built.state_dict(), module.state_dict(), reason)
    ours, theirs = dict(module.named_buffers()), dict(built.named_buffers())  # some are no part of the state
    both = ours.keys() & theirs.keys()
    same_tensors(path, {name: theirs[name] for name in both}, {name: ours[name] for name in both}, reason)
    if job.example is not None:
        torch.manual_seed(0)
        expected = run(copy.deepcopy(module), job.example)
        torch.manual_seed(0)
        same_outputs(path, run(built, job.example), expected, "the generated Python")


class _Generator:
    def __init__(self, module: nn.Module) -> None:
        self._root = module
        self._closure = SourceClosure()
        self._variables: dict[int, str] = {}
        self._statements: list[str] = []
        self._added: list[str] = []
        self._names = {id(m): name for name, m in module.named_modules()}
        counts: dict[int, int] = {}
        for _, child in module.named_modules(remove_duplicate=False):
            counts[id(child)] = counts.get(id(child), 0) + 1
        self._shared = {i for i, n in counts.items() if n > 1}

    def program(self, title: str) -> str:
        model = self._expression(self._root, "")
        body = [*self._statements, f"model = {model}", *self._added, *self._settings(), "return model"]
        lines = "\n".join("    " + line.replace("\n", "\n    ") for line in body)
        tie = TIE if any(line.startswith("tie(") for line in body) else ""
        definition = f'def build() -> nn.Module:\n    """The model with fresh weights."""\n{lines}\n'
        parts = [*self._closure.definitions(), tie, definition]
        code = "\n\n\n".join(p.strip("\n") for p in parts if p)
        return f"{HEADER.format(title=title)}\n{self._closure.imports()}\n\n\n{code}\n"

    def _settings(self) -> list[str]:
        """What constructors do not say: dtype, tied parameters, evaluation mode."""
        lines = []
        dtypes = {t.dtype for t in [*self._root.parameters(), *self._root.buffers()] if t.is_floating_point()}
        if len(dtypes) == 1 and dtypes != {torch.float32}:
            lines.append(f"model.to({dtypes.pop()})")
        elif len(dtypes) > 1:
            for name, m in self._root.named_modules():
                own = [*m.parameters(recurse=False), *m.buffers(recurse=False)]
                if dtype := next((t.dtype for t in own if t.is_floating_point()), None):
                    lines.append(f'model.get_submodule("{name}").to({dtype})')
        first: dict[int, str] = {}
        for name, parameter in self._root.named_parameters(remove_duplicate=False):
            owner, _, leaf = name.rpartition(".")
            known = first.setdefault(id(parameter), name)
            if known != name and self._root.get_submodule(owner) is not self._root.get_submodule(
                known.rpartition(".")[0]
            ):
                lines.append(f'model.get_submodule("{owner}").{leaf} = model.get_parameter("{known}")')
        for name, m in self._root.named_modules():
            if mode := m.__dict__.get("remembering"):
                lines.append(f'model.get_submodule("{name}").remember("{mode}")')
        lines += self._ties()
        if not any(m.training for m in self._root.modules()):
            lines.append("model.eval()")
        else:
            for name, m in self._root.named_modules():
                if not m.training:
                    lines.append(f'model.get_submodule("{name}").training = False')
        return lines

    def _ties(self) -> list[str]:
        """Calls that make tensors views of other modules' parameters."""
        flat, lines = list[str](), list[str]()
        for name, module in self._root.named_modules():
            for leaf, tie in module.__dict__.get("ties", {}).items():
                source = tie.source
                if tie.site.field.layout or source.field.layout or id(source.owner) not in self._names:
                    raise ConversionError(f"the way its {leaf} is tied to another module cannot be written", path=name)
                owner = f'model.get_submodule("{self._names[id(source.owner)]}")'
                if not source.name:  # the elements that several overlapping parameters share
                    flat.append(f"{owner}.{source.leaf} = nn.Parameter(torch.empty({tie.parameter().numel()}))")
                shape = tuple(tie.shape if tie.torch_shape is None else tie.torch_shape)
                view = f"{tie.shape}, {tie.stride}, {tie.offset}, {shape}"
                lines.append(f'tie(model.get_submodule("{name}"), "{leaf}", {owner}, "{source.leaf}", {view})')
        return list(dict.fromkeys(flat)) + lines

    def _expression(self, module: nn.Module, path: str) -> str:
        if id(module) in self._variables:
            return self._variables[id(module)]
        text = self._normalized(module, path) if parametrize.is_parametrized(module) else self._call(module, path)
        if id(module) in self._shared and module is not self._root:
            variable = self._variables[id(module)] = f"shared_{len(self._variables) + 1}"
            self._statements.append(f"{variable} = {text}")
            return variable
        return text

    def _normalized(self, module: nn.Module, path: str) -> str:
        """A module whose weight is normalized by PyTorch's own parametrization."""
        parametrizations: Any = module.parametrizations
        name = type(parametrizations["weight"][0]).__name__ if "weight" in parametrizations else ""
        if name != "_WeightNorm" or len(parametrizations) > 1:
            raise ConversionError(
                "its weight has a parametrization that .py cannot hold; "
                "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight') makes it an ordinary weight",
                path=path,
                class_name=_plain_type(module).__name__,
            )
        return _layout("nn.utils.parametrizations.weight_norm", [self._call(module, path)])

    def _call(self, module: nn.Module, path: str) -> str:
        kind = _plain_type(module)
        positional: list[str] = []
        keywords: list[str] = []
        for p in _parameters(kind):
            if p.kind is p.VAR_POSITIONAL:
                values = module.__dict__.get(p.name)  # such as the sizes of View(*sizes)
                positional += [
                    self._value(v, path) for v in (self._members(module, path) if values is None else values)
                ]
                continue
            value = self._argument(module, p, path)
            if isinstance(module, _CONVOLUTIONS) and isinstance(value, tuple) and len(set(value)) == 1:
                value = value[0]  # it takes 3 for (3, 3)
            if value is not p.empty and not _equal(value, p.default):
                text = self._value(value, f"{path}.{p.name}")
                if p.default is p.empty and p.kind is not p.KEYWORD_ONLY and not keywords:
                    positional.append(text)
                else:
                    keywords.append(f"{p.name}={text}")
        return _layout(self._closure.add_class(kind), positional + keywords)

    def _members(self, module: nn.Module, path: str) -> list[nn.Module]:
        """What a container takes as arguments; its members with names of their own are added afterwards."""
        for name, child in module._modules.items():
            if child is not None and not name.isdigit():
                text = self._expression(child, f"{path}.{name}")
                self._added.append(f'model.get_submodule("{self._names[id(module)]}").add_module("{name}", {text})')
        return [child for name, child in module._modules.items() if child is not None and name.isdigit()]

    def _argument(self, module: nn.Module, parameter: inspect.Parameter, path: str) -> Any:
        """The value of a constructor's argument: the attribute of that name, else what the Lua fields say."""
        name = parameter.name
        value = getattr(module, name, parameter.empty)
        if inspect.ismethod(value):
            value = parameter.empty
        if value is parameter.empty and parameter.default is parameter.empty and parameter.kind is not _REST:
            value = _from_lua(module).get(name, parameter.empty)
            if value is parameter.empty:
                raise ConversionError(
                    f"the value of its constructor's argument {name!r} is not known: .py cannot hold this model",
                    path=path,
                    class_name=type(module).__name__,
                )
        if name == "bias" and not isinstance(value, bool) and value is not parameter.empty:
            return value is not None
        return value

    def _value(self, value: Any, path: str) -> str:
        if isinstance(value, nn.ModuleList):
            return self._value(list(value), path)
        if isinstance(value, nn.Module):
            return self._expression(value, path)
        if isinstance(value, str):
            return json.dumps(value, ensure_ascii=False)
        if value is None or isinstance(value, (bool, int)):
            return repr(value)
        if isinstance(value, float):
            return repr(value) if value == value and abs(value) != float("inf") else f'float("{value}")'
        if isinstance(value, Tensor):
            dtype = "" if value.dtype in (torch.float32, torch.int64) else f", dtype={value.dtype}"
            return f"torch.tensor({value.detach().cpu().tolist()!r}{dtype})"
        if isinstance(value, torch.dtype):
            return repr(value)
        if isinstance(value, torch.Size):
            return repr(tuple(value))
        if isinstance(value, (list, tuple)):
            inner = [self._value(v, path) for v in value]
            if isinstance(value, tuple):
                return f"({', '.join(inner)}{',' if len(inner) == 1 else ''})"
            return _layout("", inner, "[]")
        if isinstance(value, (LuaTable, dict)):
            return "{" + ", ".join(f"{json.dumps(k)}: {self._value(v, path)}" for k, v in _readable(value)) + "}"
        if dataclasses.is_dataclass(value):
            fields = [
                f"{f.name}={self._value(v, path)}"
                for f in dataclasses.fields(value)
                if not _is_default(v := getattr(value, f.name), f)
            ]
            return _layout(self._closure.add_class(type(value)), fields)
        raise ConversionError(f"a {type(value).__name__} cannot be written as Python source", path=path)


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_REST = inspect.Parameter.VAR_KEYWORD


def _plain_type(module: nn.Module) -> type[nn.Module]:
    """The class of a module without the one that ties or parametrizations put in front."""
    return plain_type(parametrize.type_before_parametrizations(module))


def _parameters(kind: type) -> list[inspect.Parameter]:
    """The arguments of a constructor; where it passes ``*args, **kwargs`` on, those of its base class."""
    chain = iter(kind.__mro__)
    own = list(inspect.signature(next(chain).__init__).parameters.values())
    while any(p.kind is _REST for p in own):
        base = next(chain)
        if base is nn.Module:
            break
        named = [p for p in own if p.kind not in (p.VAR_POSITIONAL, _REST)]
        inherited = inspect.signature(base.__init__).parameters.values()
        inherited = [p for p in inherited if p.name not in {q.name for q in named}]
        if len(named) + 1 == len(own):  # **kwargs alone
            own = [*named, *(p.replace(kind=p.KEYWORD_ONLY) for p in inherited if p.kind is not _REST)]
            own += [p for p in inherited if p.kind is _REST]
        else:
            own = [*inherited, *named]
    fixed = {"self", "device", "dtype"} | ({"mode"} if issubclass(kind, nn.RNNBase) else set())
    return [p for p in own if p.name not in fixed and p.kind is not _REST]


def _from_lua(module: nn.Module) -> dict[str, Any]:
    """Arguments as they follow from the module's Lua fields; submodules are the module's own."""
    spec = spec_of(module)
    try:
        arguments = spec.arguments(spec.upgrade(to_lua(module, gradients=False)), TorchContext())
    except (ConversionError, KeyError):
        return {}
    return {k: v for k, v in arguments.items() if not isinstance(v, nn.Module)}


def _readable(value: Any) -> list[tuple[str, Any]]:
    """The entries of a table of annotations that say something: no private, compound Lua or empty ones."""
    entries = [(k, v) for k, v in value.items() if isinstance(k, str) and not k.startswith("_")]
    return [(k, v) for k, v in entries if isinstance(v, (bool, int, float, str)) or (_is_table(v) and _readable(v))]


def _is_table(value: Any) -> bool:
    return isinstance(value, (LuaTable, dict))


def _is_default(value: Any, field: dataclasses.Field) -> bool:
    if _is_table(value):
        return not _readable(value)
    return field.default is not dataclasses.MISSING and value == field.default


def _equal(value: Any, default: Any) -> bool:
    return type(value) is type(default) and not isinstance(value, Tensor) and value == default


def _layout(name: str, arguments: list[str], brackets: str = "()") -> str:
    line = f"{name}{brackets[0]}{', '.join(arguments)}{brackets[1]}"
    if len(line) <= 100 and "\n" not in line:
        return line
    inner = "".join(f"\n    {a.replace(chr(10), chr(10) + '    ')}," for a in arguments)
    return f"{name}{brackets[0]}{inner}\n{brackets[1]}"
