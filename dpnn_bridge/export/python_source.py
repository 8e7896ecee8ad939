"""``.py``: a readable definition of the model that needs only torch and loads the ``state_dict``.

The file holds the source of every class that is not stock PyTorch, and a function ``build()``::

    model = build()
    model.load_state_dict(torch.load("model.pt", weights_only=True)["state_dict"])
"""

from __future__ import annotations

import dataclasses
import inspect
import runpy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.errors import ConversionError, VerificationError
from dpnn_bridge.export import Job
from dpnn_bridge.export.compare import run, same_outputs
from dpnn_bridge.export.source_closure import SourceClosure
from dpnn_bridge.objects import LuaTable

HEADER = '''"""{title}, converted from Torch7 by dpnn_bridge. Needs only PyTorch.

    model = build()
    model.load_state_dict(torch.load("model.pt", weights_only=True)["state_dict"])
"""

from __future__ import annotations
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
    if job.example is not None:
        torch.manual_seed(0)
        expected = run(module, job.example)
        torch.manual_seed(0)
        same_outputs(path, run(built, job.example), expected, "the generated Python")


class _Generator:
    def __init__(self, module: nn.Module) -> None:
        self._root = module
        self._closure = SourceClosure()
        self._variables: dict[int, str] = {}
        self._statements: list[str] = []
        counts: dict[int, int] = {}
        for _, child in module.named_modules(remove_duplicate=False):
            counts[id(child)] = counts.get(id(child), 0) + 1
        self._shared = {i for i, n in counts.items() if n > 1}

    def program(self, title: str) -> str:
        model = self._expression(self._root, "")
        body = [*self._statements, f"model = {model}", *self._settings(), "return model"]
        lines = "\n".join("    " + line.replace("\n", "\n    ") for line in body)
        definition = f'def build() -> nn.Module:\n    """The model with fresh weights."""\n{lines}\n'
        parts = [HEADER.format(title=title), self._closure.imports(), *self._closure.definitions(), definition]
        return "\n\n".join(p.strip("\n") + "\n" for p in parts if p)

    def _settings(self) -> list[str]:
        """What constructors do not say: dtype, tied parameters, evaluation mode."""
        lines = []
        dtypes = {t.dtype for t in [*self._root.parameters(), *self._root.buffers()] if t.is_floating_point()}
        if len(dtypes) == 1 and dtypes != {torch.float32}:
            lines.append(f"model.to({dtypes.pop()})")
        first: dict[int, str] = {}
        for name, parameter in self._root.named_parameters(remove_duplicate=False):
            owner, _, leaf = name.rpartition(".")
            known = first.setdefault(id(parameter), name)
            if known != name and self._root.get_submodule(owner) is not self._root.get_submodule(
                known.rpartition(".")[0]
            ):
                lines.append(f'model.get_submodule("{owner}").{leaf} = model.get_parameter("{known}")')
        if not any(m.training for m in self._root.modules()):
            lines.append("model.eval()")
        else:
            for name, m in self._root.named_modules():
                if not m.training:
                    lines.append(f'model.get_submodule("{name}").training = False')
        return lines

    def _expression(self, module: nn.Module, path: str) -> str:
        if id(module) in self._variables:
            return self._variables[id(module)]
        if module.__dict__.get("ties"):
            raise ConversionError("a parameter tied to part of another one cannot be written as .py", path=path)
        text = self._call(module, path)
        if id(module) in self._shared and module is not self._root:
            variable = self._variables[id(module)] = f"shared_{len(self._variables) + 1}"
            self._statements.append(f"{variable} = {text}")
            return variable
        return text

    def _call(self, module: nn.Module, path: str) -> str:
        positional: list[str] = []
        keywords: list[str] = []
        for p in inspect.signature(type(module).__init__).parameters.values():
            if p.name in ("self", "device", "dtype"):
                continue
            if p.kind is p.VAR_POSITIONAL:
                values = module.__dict__.get(p.name)  # such as the sizes of View(*sizes)
                positional += [self._value(v, path) for v in (module._modules.values() if values is None else values)]
                continue
            if not hasattr(module, p.name):
                if p.default is p.empty and p.kind is not p.VAR_KEYWORD:
                    raise ConversionError(f"its argument {p.name!r} is not an attribute", path=path)
                continue
            value = getattr(module, p.name)
            if p.name == "bias" and not isinstance(value, bool):
                value = value is not None
            if not _equal(value, p.default):
                text = self._value(value, f"{path}.{p.name}")
                if p.default is p.empty and p.kind is not p.KEYWORD_ONLY and not positional and not keywords:
                    positional.append(text)
                else:
                    keywords.append(f"{p.name}={text}")
        return _layout(self._closure.add_class(type(module)), positional + keywords)

    def _value(self, value: Any, path: str) -> str:
        if isinstance(value, nn.Module):
            return self._expression(value, path)
        if value is None or isinstance(value, (bool, int, str)):
            return repr(value)
        if isinstance(value, float):
            return repr(value) if value == value and abs(value) != float("inf") else f'float("{value}")'
        if isinstance(value, Tensor):
            dtype = "" if value.dtype in (torch.float32, torch.int64) else f", dtype={value.dtype}"
            return f"torch.tensor({value.detach().cpu().tolist()!r}{dtype})"
        if isinstance(value, torch.Size):
            return repr(tuple(value))
        if isinstance(value, (list, tuple)):
            inner = [self._value(v, path) for v in value]
            if isinstance(value, tuple):
                return f"({', '.join(inner)}{',' if len(inner) == 1 else ''})"
            return _layout("", inner, "[]")
        if isinstance(value, LuaTable):  # annotations of graph nodes: what is readable of them
            value = {k: v for k, v in value.items() if isinstance(v, (bool, int, float, str))}
        if isinstance(value, dict):
            return "{" + ", ".join(f"{k!r}: {self._value(v, path)}" for k, v in value.items()) + "}"
        if dataclasses.is_dataclass(value):
            fields = [f"{f.name}={self._value(getattr(value, f.name), path)}" for f in dataclasses.fields(value)]
            return _layout(self._closure.add_class(type(value)), fields)
        raise ConversionError(f"a {type(value).__name__} cannot be written as Python source", path=path)


def _equal(value: Any, default: Any) -> bool:
    return type(value) is type(default) and not isinstance(value, Tensor) and value == default


def _layout(name: str, arguments: list[str], brackets: str = "()") -> str:
    line = f"{name}{brackets[0]}{', '.join(arguments)}{brackets[1]}"
    if len(line) <= 100 and "\n" not in line:
        return line
    inner = "".join(f"\n    {a.replace(chr(10), chr(10) + '    ')}," for a in arguments)
    return f"{name}{brackets[0]}{inner}\n{brackets[1]}"
