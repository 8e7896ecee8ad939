"""Follow values through a model as Torch7 stores them, to find values that an in-place layer overwrites.

Each class mapping states by :meth:`~dpnn_bridge.conversion.lua_class.LuaClass.output_memory` where Torch7 stores the
output. Most classes compute a new tensor, which is the default. Others return their input (``nn.Identity``), a view of
it (``nn.View``), or the output of a module inside (containers). The methods for common cases are at the end of this
file; a mapping assigns one::

    class Lua(LuaClass):
        output_memory = same_memory
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from dpnn_bridge.base.graph import MAX_DEPTH, is_module
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.objects import LuaObject, LuaTable

#: maximum number of modules, tensors and comparisons of one model that are examined
_MAX_STEPS = 50_000

#: path of a module: a step (field, index, …) for each module from the model to it
Path = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, eq=False)
class Memory:
    """The memory of a tensor, or of a table with unknown elements.

    Attributes:
        origin: number of the tensor or table that was created.
        parts: the view or element of it, one step after the other.
        version: number of the last overwriting that the reader of this value expects, or None.
    """

    origin: int
    parts: tuple[tuple[str, Any], ...] = ()
    version: int | None = None

    def overlaps(self, other: Memory) -> bool:
        """Return whether two parts of one origin may share memory: unless they are different elements of a table."""
        for mine, others in zip(self.parts, other.parts, strict=False):
            if mine != others:
                return mine[0] != "element" or others[0] != "element" or None in (mine[1], others[1])
        return True


@dataclass(frozen=True)
class Each:
    """A table of unknown length, with one value for every element."""

    value: Any


@dataclass(frozen=True)
class Access:
    """A call of a layer that reads or overwrites memory; ``layer`` is None for the user of the model's output."""

    call: int
    path: Path
    layer: LuaObject | None
    memory: Memory


class TooManyStepsError(Exception):
    """The limit of the examination is reached."""


class Trace:
    """The calls of a model's layers, with the memory that they read and overwrite.

    A value is a :class:`Memory`, a list of values, or an :class:`Each`.

    Attributes:
        visited: ids of the modules that ran.
        overwritten: the overwritings, in their order.
    """

    def __init__(self, max_steps: int = _MAX_STEPS) -> None:
        self.visited: set[int] = set()
        self.overwritten: list[Access] = []
        self._read: dict[tuple[int, int | None], list[Access]] = {}
        self._origins, self._calls = count(), count()
        self._steps = max_steps
        self._active: list[tuple[int, LuaObject | None]] = []
        self._path: Path = ()

    # ------------------------------------------------------------------ for class mappings
    def run(self, obj: Any, value: Any, *step: Any) -> Any:
        """Return the output of a module inside.

        Args:
            obj: the Lua module.
            value: its input.
            *step: path of the module in the Lua module around it, such as ``"modules", 1``.
        """
        self.spend()
        if not isinstance(obj, LuaObject) or len(self._active) > MAX_DEPTH:
            return self.new()
        is_new, outer = id(obj) not in self.visited, self._path
        self.visited.add(id(obj))
        self._path = (*outer, step) if step else outer
        self._active.append((next(self._calls), obj))
        try:
            try:
                output = (registry.find(obj) or LuaClass).output_memory(obj, value, self)
            except TooManyStepsError:
                raise
            except Exception:  # fields of the wrong type, which the conversion has reported
                output = self.computed(value)
            for keys, module in modules_inside(obj) if is_new else ():
                if id(module) not in self.visited:  # the class does not run it, or its input is unknown
                    self.run(module, self.new(), *keys)
            return output
        finally:
            self._active.pop()
            self._path = outer

    def new(self) -> Memory:
        """Return the memory of a new tensor."""
        return Memory(next(self._origins))

    def computed(self, value: Any) -> Memory:
        """Read the input and return the memory of a new output."""
        self.read(value)
        return self.new()

    def read(self, value: Any) -> None:
        """Read a value."""
        for memory in self.tensors(value):
            self._note(memory)

    def overwrite(self, value: Any) -> Any:
        """Overwrite a tensor and return the new value."""
        for memory in self.tensors(value):
            self.overwritten.append(self._note(memory))
            value = replace(memory, version=len(self.overwritten))
        return value

    def element(self, value: Any, index: Any) -> Any:
        """Return an element of a table; the index None is an unknown element."""
        self.spend()
        if isinstance(value, Each):
            return value.value
        if isinstance(value, Memory):
            known = index if not isinstance(index, (int, float)) or index > 0 else None
            return replace(value, parts=(*value.parts, ("element", known))) if len(value.parts) < MAX_DEPTH else value
        position = int(index) - 1 if index > 0 else len(value) + int(index)
        return value[position] if 0 <= position < len(value) else self.new()

    def call(self) -> None:
        """Begin another call of the current module."""
        self._active[-1] = (next(self._calls), self._active[-1][1])

    def spend(self, steps: int = 1) -> None:
        """Count steps.

        Raises:
            TooManyStepsError: the limit is reached.
        """
        self._steps -= steps
        if self._steps < 0:
            raise TooManyStepsError

    # ------------------------------------------------------------------ for the notes
    def run_model(self, obj: LuaObject, *step: Any) -> None:
        """Run a module with an unknown input; its output is read."""
        self._path = (step,) if step else ()
        output = self.run(obj, self.new())
        self._active.append((next(self._calls), None))
        self.read(output)
        self._active.pop()

    def conflicts(self) -> Iterator[tuple[Access, Access]]:
        """Yield each overwriting of a value that another call also reads, with the first of these calls."""
        for access in self.overwritten:
            memory = access.memory
            for other in self._read[memory.origin, memory.version]:
                self.spend()
                if other.call != access.call and memory.overlaps(other.memory):
                    yield access, other
                    break

    def _note(self, memory: Memory) -> Access:
        call, layer = self._active[-1]
        access = Access(call, self._path, layer, memory)
        self._read.setdefault((memory.origin, memory.version), []).append(access)
        return access

    def tensors(self, value: Any) -> Iterator[Memory]:
        """Yield the tensors in a value."""
        stack = [value]
        while stack:
            self.spend()
            value = stack.pop()
            if isinstance(value, Memory):
                yield value
            elif isinstance(value, Each):
                stack.append(value.value)
            else:
                stack += reversed(value)


# ---------------------------------------------------------------------- functions for class mappings
def view_of(value: Any, obj: LuaObject) -> Any:
    """Return the memory of the view that a module computes."""
    if isinstance(value, Memory) and len(value.parts) < MAX_DEPTH:
        return replace(value, parts=(*value.parts, ("view", id(obj))))
    return value


def run_decorated(obj: LuaObject, input: Any, trace: Trace) -> Any:
    """Run the only module inside a module: the first of ``modules``, or ``module``."""
    for number, module in modules_of(obj):
        return trace.run(module, input, "modules", number)
    return trace.run(obj["module"], input, "module")


def modules_of(obj: LuaObject) -> Iterator[tuple[int, Any]]:
    """Yield the numbers and the modules of the field ``modules``, in their order."""
    table = obj.get("modules")
    if isinstance(table, LuaTable):
        number = 1
        while number in table:
            yield number, table.get(number)
            number += 1


def modules_inside(obj: LuaObject) -> Iterator[tuple[tuple[Any, ...], LuaObject]]:
    """Yield the path and each module that is a field of a module, or that is in a list of modules."""
    for key, value in obj.items():
        if is_module(value):
            yield (key,), value
        elif isinstance(value, LuaTable) and is_module(next(iter(value.values()), None)):
            yield from (((key, k), v) for k, v in value.items() if is_module(v))


# ---------------------------------------------------------------------- methods for class mappings
def _same(cls: Any, obj: LuaObject, input: Any, trace: Trace) -> Any:
    return input


def _view(cls: Any, obj: LuaObject, input: Any, trace: Trace) -> Any:
    return view_of(input, obj)


def _computed(cls: Any, obj: LuaObject, input: Any, trace: Trace) -> Any:
    return trace.computed(input)


def _sequence(cls: Any, obj: LuaObject, input: Any, trace: Trace) -> Any:
    for number, module in modules_of(obj):
        input = trace.run(module, input, "modules", number)
    return input


def _branches(cls: Any, obj: LuaObject, input: Any, trace: Trace) -> Any:
    return [trace.run(module, input, "modules", number) for number, module in modules_of(obj)]


def _joined_branches(cls: Any, obj: LuaObject, input: Any, trace: Trace) -> Any:
    return trace.computed(_branches(cls, obj, input, trace))


def _decorated(cls: Any, obj: LuaObject, input: Any, trace: Trace) -> Any:
    return run_decorated(obj, input, trace)


def _decorated_copied(cls: Any, obj: LuaObject, input: Any, trace: Trace) -> Any:
    return trace.computed(run_decorated(obj, input, trace))


def _step(cls: Any, obj: LuaObject, input: Any, trace: Trace) -> Any:
    return trace.run(obj["recurrentModule"], input, "recurrentModule")


def _fed_back(cls: Any, obj: LuaObject, input: Any, trace: Trace) -> Any:
    return trace.run(obj["recurrentModule"], [input, trace.new()], "recurrentModule")


#: the output is the input
same_memory: Any = classmethod(_same)
#: the output is a view of the input
view_memory: Any = classmethod(_view)
#: the output is new
new_memory: Any = classmethod(_computed)
#: each of the ``modules`` gets the previous output
sequence_memory: Any = classmethod(_sequence)
#: all ``modules`` get the input; the output is the table of their outputs
branches_memory: Any = classmethod(_branches)
#: all ``modules`` get the input; the output is computed from their outputs
joined_branches_memory: Any = classmethod(_joined_branches)
#: the first of the ``modules``, or the field ``module``, gets the input and returns the output
decorated_memory: Any = classmethod(_decorated)
#: the same, but the output is computed from its output
decorated_copied_memory: Any = classmethod(_decorated_copied)
#: the field ``recurrentModule`` gets the input and returns the output
step_memory: Any = classmethod(_step)
#: the same, but it gets a table of the input and a previous output
fed_back_memory: Any = classmethod(_fed_back)
