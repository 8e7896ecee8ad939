"""Run the process of a Lua sandbox: drop its privileges, then serve requests of the parent process.

A request is a tuple: the operation, the IDs of the values that the parent no longer uses, and arguments. The answer is
a pair, ``("value", …)`` or ``("error", text)``. Before the answer, this process may send any number of
``("print", text)`` and ``("module", name)``. The parent replies to ``("module", name)`` with the path and text of a Lua
file, with None and the message of an error, or with None if there is no such file.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib
import os
import pkgutil
import select
import signal
import sys
import threading
from typing import Any

import torch

if sys.platform == "win32":
    raise ImportError("the process of a Lua sandbox needs Linux or macOS")

from dpnn_bridge.conversion.registry import ZOO, discover
from dpnn_bridge.errors import DpnnBridgeError
from dpnn_bridge.loaders.t7_reader import loads
from dpnn_bridge.loaders.t7_writer import dumps
from dpnn_bridge.lua.bridge import LuaBridge
from dpnn_bridge.lua.confinement import confine
from dpnn_bridge.lua.messages import error_text
from dpnn_bridge.lua.runtime import Runtime
from dpnn_bridge.lua.state import Host
from dpnn_bridge.lua.wire import Channel, WireError, encoded

#: bytes for Python itself, in addition to the limit for Lua and its tensors
_PYTHON_MEMORY = 64 << 20
#: milliseconds between checks that the parent process is running
_POLL_INTERVAL = 500
#: subpackages that are imported before files become inaccessible
_SUBPACKAGES = ("checkpoints", "compare", "conversion", "loaders", "lua", "modules", "torch7", "training")
_CODECS = ("ascii", "latin-1", "utf-8", "utf-16", "utf-32", "unicode_escape", "raw_unicode_escape", "idna", "hex")
#: Lua code that loads everything whose first use opens files, before files become inaccessible
_WARM_UP = """
   require 'nn' require 'moses' require 'xlua' require 'bit32'
   local m = nn.Sequential():add(nn.Linear(3, 2)):add(nn.Tanh())
   local c = nn.MSECriterion()
   local x, y = torch.randn(4, 3), torch.randn(4, 2)
   c:forward(m:forward(x), y)
   m:backward(x, c:backward(m.output, y))
   tostring(x)
   torch.deserialize(torch.serialize(m))
   torch.svd(torch.eye(2)) torch.symeig(torch.eye(2)) torch.inverse(torch.eye(2)) torch.gels(x:t(), torch.ones(3, 1))
   torch.conv2(torch.ones(4, 4), torch.ones(2, 2)) torch.sort(x) torch.randperm(4)
"""


def main(alive: int) -> None:
    """Serve the parent process until it ends or closes the pipe.

    Args:
        alive: descriptor of a pipe to which the parent writes nothing, and which closes when the parent ends. On Linux
            the kernel sends SIGIO then.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGIO,))
    source, target = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    channel = Channel(source, target, 1 << 62)
    with contextlib.suppress(WireError, KeyboardInterrupt):
        Server(channel, alive).serve()
    os._exit(0)


def _exit_with_parent(alive: int, parent: int) -> None:
    """Exit when the parent process has ended, even while Lua runs.

    The pipe closes when the parent ends, unless a process that it forked keeps the pipe open. The parent process ID
    changes in this case too.

    Args:
        alive: descriptor of the pipe.
        parent: process ID of the parent.
    """
    poll = select.poll()
    poll.register(alive, 0)  # reports hang-up and errors only
    while os.getppid() == parent and not poll.poll(_POLL_INTERVAL):
        pass
    os._exit(0)


def _import_all() -> None:
    for codec in _CODECS:
        codecs.lookup(codec)
    for name in _SUBPACKAGES:
        package = importlib.import_module(f"dpnn_bridge.{name}")
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not info.name.endswith("confined"):
                importlib.import_module(info.name)
    discover(ZOO)


def _no_value(value: Any) -> Any:
    """Raise an error; encodes values that stay in this process in messages that must not contain any."""
    raise WireError(f"a message that must not contain Lua values contains {value!r}")


class _Host(Host):
    """Services for Lua: output, and the Lua files of ``require``."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._text: list[str] = []
        self._size = 0

    def write(self, text: str) -> None:
        self._text.append(text)
        self._size += len(text)
        if "\n" in text or self._size > 1 << 16:
            self.flush()

    def flush(self) -> None:
        text = "".join(self._text)
        self._text, self._size = [], 0
        if text:
            self._channel.send(("print", text), _no_value)

    def module(self, name: Any) -> tuple[str | None, str] | None:
        self.flush()
        self._channel.send(("module", str(name)), _no_value)
        return self._channel.receive(_no_value)


class Server:
    """Serves requests with a bridge to a confined Lua state."""

    def __init__(self, channel: Channel, alive: int) -> None:
        self._channel, self._alive = channel, alive
        self._values: dict[int, Any] = {}
        self._last_number = 0
        #: ID of a module -> its tensors, and copies with the values that the parent has
        self._shared: dict[int, list[list[torch.Tensor]]] = {}
        self._fields: dict[int, list[str]] = {}  # names of the same tensors; empty for parameters

    def serve(self) -> None:
        """Start, drop the privileges of this process, and serve requests."""
        parent, max_memory, max_instructions = self._channel.receive(_no_value)
        threading.Thread(target=_exit_with_parent, args=(self._alive, parent), daemon=True).start()
        _import_all()
        self._host = _Host(self._channel)
        LuaBridge.from_runtime(Runtime("lua51", sandbox=True, max_memory=1 << 30, max_instructions=1 << 30)).execute(
            _WARM_UP
        )
        self.bridge = LuaBridge.from_runtime(
            Runtime("lua51", sandbox=True, max_memory=max_memory, max_instructions=max_instructions, host=self._host)
        )
        self.bridge.require("torch")
        missing = confine(max_memory + _PYTHON_MEMORY)
        self._channel.send(("value", missing), self._number)
        while True:
            operation, released, *args = self._channel.receive(self._value)
            for number in released:
                self._values.pop(number, None)
                self._shared.pop(number, None)
                self._fields.pop(number, None)
            answer = self._answer(operation, args)
            self._host.flush()
            self._channel.write(answer)

    def _answer(self, operation: str, args: list[Any]) -> list[Any]:
        """Return the encoded answer to a request; an error of encoding the value is an answer too."""
        before = self._last_number
        try:
            value = getattr(self, f"do_{operation}")(*args)
            with self.bridge.errors():  # which limits what a script has put in the place of torch.type
                return encoded(("value", value), self._number)
        except DpnnBridgeError as error:
            self.bridge.helper("collect")()  # frees memory: after an out-of-memory error the next call would fail too
            text = str(error)
        except MemoryError:
            text = "not enough memory (max_memory)"
        except Exception as error:
            text = error_text(error)
        for number in range(before + 1, self._last_number + 1):  # the parent does not get these values
            del self._values[number]
        return encoded(("error", text), _no_value)

    # ---- values that stay in this process

    def _number(self, value: Any) -> list[Any]:
        """Keep a value in this process; return its ID and the results of Lua's ``type`` and ``torch.type``."""
        self._last_number += 1
        number = self._last_number
        self._values[number] = value
        lua_type = self.bridge.kind_of(value)
        try:
            return [number, lua_type, str(self.bridge.type_of(value))]
        except Exception:  # a script may have replaced torch.type
            return [number, lua_type, lua_type]

    def _value(self, number: Any) -> Any:
        return self._values[number]

    # ---- requests

    def do_execute(self, code: str, name: str, args: Any) -> Any:
        return self.bridge.run_source(code, name, *args)

    def do_require(self, name: str) -> Any:
        return self.bridge.require(name)

    def do_call(self, function: Any, args: Any) -> Any:
        return self.bridge.call(function, *args)

    def do_method(self, obj: Any, name: str, args: Any) -> Any:
        return self.bridge.method(obj, name, *args)

    def do_index(self, obj: Any, key: Any) -> Any:
        return self.bridge.execute("local object, key = ... return object[key]", obj, key)

    def do_new(self, class_name: str, args: Any) -> Any:
        return self.bridge.new(class_name, *args)

    def do_to_lua(self, value: Any) -> Any:
        """Convert a Python value to a Lua value, which stays in this process."""
        with self.bridge.errors():
            return self.bridge.to_lua(loads(value) if isinstance(value, bytes) else value)

    def do_to_python(self, value: Any) -> Any:
        return self.bridge.to_python(value)

    def do_to_object(self, value: Any) -> bytes:
        return dumps(self.bridge.to_object(value))

    def do_has_class(self, name: str) -> bool:
        return self.bridge.has_class(name)

    def do_definition(self, name: str, method: str | None) -> str:
        return self.bridge.definition(name, method)

    def do_type_of(self, value: Any) -> str:
        return self.bridge.type_of(value)

    def do_kind_of(self, value: Any) -> str:
        return self.bridge.kind_of(value)

    def do_seed(self, seed: int) -> None:
        self.bridge.manual_seed(seed)

    def do_fill_new_memory(self, value: float | None) -> float | None:
        return self.bridge.fill_new_memory(value)

    def do_default_type(self, name: str) -> None:
        self.bridge.default_dtype(getattr(torch, name))

    # ---- modules; the parent has copies of their tensors

    def do_state_of(self, number: int, obj: Any) -> Any:
        names, weights, order, buffers = self.bridge.state_of(obj)
        tensors = [*weights, *(value for _, value in buffers)]
        self._shared[number] = [tensors, [t.clone() for t in tensors]]
        self._fields[number] = [*[""] * len(weights), *(name for name, _ in buffers)]
        return names, weights, order, buffers

    def do_temporary(self, obj: Any) -> list[str]:
        return self.bridge.temporary(obj)

    def do_push(self, number: int, changed: dict[int, torch.Tensor]) -> None:
        tensors, copies = self._shared[number]
        for i, value in changed.items():
            tensors[i].copy_(value)
            copies[i].copy_(value)

    def do_forward(self, number: int, obj: Any, method: str, input: Any) -> Any:
        return self.bridge.forward(obj, method, input, ()), *self.do_changed(number, obj)

    def do_backward(self, number: int, obj: Any, method: str, *values: Any) -> Any:
        return self.bridge.backward(obj, method, (), *values), *self.do_changed(number, obj)

    def do_changed(self, number: int, obj: Any) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """Return the tensors that Lua has changed and those that it has put in the place of others, by their index."""
        tensors, copies = self._shared[number]
        replaced = self.bridge.followed(obj, self._fields[number], tensors)
        changed = {}
        for i, (tensor, copy) in enumerate(zip(tensors, copies, strict=True)):
            if i in replaced:
                tensors[i], copies[i] = replaced[i], replaced[i].clone()
            elif not torch.equal(tensor, copy):
                copy.copy_(tensor)
                changed[i] = tensor
        return changed, replaced
