"""Define :class:`SandboxedBridge`, a bridge to Lua in a separate process that can only compute."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch.autograd.graph import increment_version

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.errors import LuaBridgeError, OptionError, T7Error
from dpnn_bridge.loaders.t7_reader import loads
from dpnn_bridge.loaders.t7_writer import dumps
from dpnn_bridge.lua.bridge import LuaBridge
from dpnn_bridge.lua.environment import StrPath, folders
from dpnn_bridge.lua.sandbox import RemoteValue, Sandbox
from dpnn_bridge.lua.state import check_runtime
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor


class SandboxedBridge(LuaBridge):
    """A bridge to Lua in another process.

    Lua values that cannot be copied, such as objects and functions, stay in that process; a
    :class:`~dpnn_bridge.lua.sandbox.RemoteValue` refers to such a value.
    """

    @checks_arguments
    def __init__(
        self,
        lua_path: StrPath | Sequence[StrPath] = (),
        *,
        runtime: str = "auto",
        sandbox: bool | Literal["partial"] = True,
        max_memory: float = 2 << 30,
        max_instructions: float = 1_000_000_000,
        max_seconds: float = 60,
    ) -> None:
        check_runtime(runtime, sandbox=True)
        self._sandbox = Sandbox(
            folders(lua_path), max_memory, max_seconds, max_instructions, partial=sandbox == "partial"
        )
        self._remote_tensors: dict[int, list[torch.Tensor]] = {}  # ID of a module -> copies of its tensors
        self._replaced: dict[int, dict[int, torch.Tensor]] = {}  # ID -> tensors for :meth:`followed`
        self._ask = self._sandbox.ask

    def close(self) -> None:
        """End the process."""
        self._sandbox.close()

    def print_to_stderr(self) -> None:
        self._sandbox.to_stderr = True

    @property
    def runtime(self) -> str:
        return "lua51"

    @property
    def sandboxed(self) -> bool:
        return True

    @property
    def lua_path(self) -> list[Path]:
        return self._sandbox.lua_path

    def run_source(self, code: str, name: str, *args: Any) -> Any:
        return self._ask("execute", code, name, args)

    def require(self, name: str) -> Any:
        return self._ask("require", name)

    def call(self, function: Any, *args: Any) -> Any:
        return self._ask("call", function, args)

    def method(self, obj: Any, name: str, *args: Any) -> Any:
        return self._ask("method", obj, name, args)

    @contextmanager
    def errors(self) -> Iterator[None]:
        yield

    def to_lua(self, value: Any) -> Any:
        if isinstance(value, (LuaObject, LuaTable, LuaTensor, LuaStorage, LuaFunction)):
            value = dumps(value)
        elif isinstance(value, bytes):
            value = value.decode("latin-1")
        return self._ask("to_lua", value)

    def copy_to_lua(self, value: Any) -> Any:
        return self.to_lua(value)  # the process gets a copy

    def copy_from_lua(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone()

    def to_python(self, value: Any) -> Any:
        return self._ask("to_python", value) if isinstance(value, RemoteValue) else value

    def to_object(self, value: Any) -> Any:
        answer = self._ask("to_object", value)
        try:
            return loads(answer)
        except (OptionError, T7Error) as error:
            raise LuaBridgeError(f"the Lua sandbox sent an object that cannot be read: {error}") from error

    def has_class(self, name: str) -> bool:
        return self._ask("has_class", name) is True

    def definition(self, name: str, method: str | None = None) -> str:
        return str(self._ask("definition", name, method))

    def type_of(self, value: Any) -> str:
        return value.type_name if isinstance(value, RemoteValue) else self._ask("type_of", value)

    def kind_of(self, value: Any) -> str:
        return value.kind if isinstance(value, RemoteValue) else self._ask("kind_of", value)

    def new(self, class_name: str, *args: Any) -> Any:
        return self._ask("new", class_name, args)

    def state_of(self, obj: Any) -> Any:
        names, weights, order, buffers = self._ask("state_of", obj.number, obj)
        buffers = [(str(name), value) for name, value in buffers]
        self._remote_tensors[obj.number] = [t.clone() for t in (*weights, *(value for _, value in buffers))]
        weakref.finalize(obj, self._remote_tensors.pop, obj.number, None)
        return [str(n) for n in names], weights, [int(n) for n in order], buffers

    def followed(self, obj: Any, fields: Sequence[str], tensors: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
        return self._replaced.pop(obj.number, {})

    def temporary(self, obj: Any) -> list[str]:
        return [str(name) for name in self._ask("temporary", obj)]

    def push(self, obj: Any, tensors: Sequence[torch.Tensor | None]) -> None:
        remote = self._remote_tensors[obj.number]
        changed = {i: t for i, t in enumerate(tensors) if t is not None and not torch.equal(t, remote[i])}
        if changed:
            self._ask("push", obj.number, changed)
        for i, tensor in changed.items():
            remote[i].copy_(tensor.detach())

    def pull(self, obj: Any, tensors: Sequence[torch.Tensor | None]) -> None:
        self._pull(obj, tensors, *self._ask("changed", obj.number, obj))

    def forward(self, obj: Any, method: str, input: Any, tensors: Sequence[torch.Tensor | None]) -> Any:
        self.push(obj, tensors)
        output, *found = self._ask("forward", obj.number, obj, method, input)
        self._pull(obj, tensors, *found)
        return output

    def backward(self, obj: Any, method: str, tensors: Sequence[torch.Tensor | None], *values: Any) -> Any:
        self.push(obj, tensors)
        gradients, *found = self._ask("backward", obj.number, obj, method, *values)
        self._pull(obj, tensors, *found)
        return gradients

    def _pull(
        self,
        obj: Any,
        tensors: Sequence[torch.Tensor | None],
        changed: dict[int, torch.Tensor],
        replaced: dict[int, torch.Tensor],
    ) -> None:
        """Copy tensors that Lua changed to ``tensors``, such as running means or weights with a limited norm.

        Tensors that Lua has put in the place of others are kept for :meth:`followed`.
        """
        for i, value in (changed | replaced).items():
            target, copy = tensors[i], self._remote_tensors[obj.number][i]
            if copy.shape != value.shape or copy.dtype != value.dtype:
                raise LuaBridgeError(
                    "Lua changed the shape or type of a parameter or buffer, which the sandbox does not support"
                )
            copy.copy_(value)
            if i in changed and target is not None:  # one that was empty when the module was created has no target
                target.data.copy_(value)
                increment_version(target)
        self._replaced[obj.number] = replaced

    @property
    def generator(self) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        self._ask("seed", seed)

    def fill_new_memory(self, value: float | None) -> float | None:
        return self._ask("fill_new_memory", value)

    def default_dtype(self, dtype: torch.dtype) -> None:
        self._ask("default_type", str(dtype).removeprefix("torch."))
