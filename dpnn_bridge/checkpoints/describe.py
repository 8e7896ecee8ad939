"""Describe a .t7 file as a tree with totals, without loading its tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeAlias

from typing_extensions import Unpack

from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.display import counted, printable, shortened
from dpnn_bridge.base.graph import given_name, is_module, key_text, node_name
from dpnn_bridge.base.reading import file_status
from dpnn_bridge.checkpoints.bytecode import describe_bytecode
from dpnn_bridge.checkpoints.find import candidates, looks_like_module
from dpnn_bridge.errors import OptionError, T7Error
from dpnn_bridge.loaders.encoding import Encoding
from dpnn_bridge.loaders.origin import LocalFile, Origin, local_file, name_of
from dpnn_bridge.loaders.t7_reader import ReadKeywords, ReadOptions, read_local
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

#: returns the content of a file and its encoding
Reads = Callable[[LocalFile, ReadOptions], tuple[Any, Encoding]]

#: maximum numbers of listed models, of characters of a path and of a key, and of levels of the tree
MAX_MODELS, LONGEST_PATH, LONGEST_KEY, DEEPEST = 1000, 1000, 200, 200

_COMPOUND = (LuaTable, LuaObject, LuaFunction, LuaTensor, LuaStorage)
#: the position of the parent, and the label of the value in the parent; None for the root
_Position: TypeAlias = "tuple[_Position, str] | None"


@dataclass
class Node:
    """One value of the tree.

    Attributes:
        depth: 0 for the root.
        key: key of the value in its parent: ``.weight``, ``[1]``.
        path: path of the value from the root.
        kind: ``nil``, ``boolean``, ``number``, ``string``, ``table``, ``object``, ``tensor``, ``storage`` or
            ``function``.
        text: description.
        class_name: Lua class of objects, tensors and storages; the middle of a very long name is omitted.
        name: the name that Lua code gave a module: its field ``name``, or nngraph's ``annotate``.
        shape, stride, offset: those of a tensor; the offset is counted from 0.
        bytes: bytes of the elements that a tensor views or a storage contains, or of the bytecode of a function.
        first: path of the first reference to the object, for each further reference.
        storage: number of a tensor's storage, in order of appearance; tensors with equal numbers share memory.
        omitted: number of entries that are not listed because of the limits.
    """

    depth: int
    key: str
    path: str
    kind: str
    text: str
    class_name: str | None = None
    name: str | None = None
    shape: tuple[int, ...] | None = None
    stride: tuple[int, ...] | None = None
    offset: int | None = None
    bytes: int | None = None
    first: str | None = None
    storage: int | None = None
    omitted: int = 0


@dataclass
class Description:
    """The content of a file.

    Attributes:
        file: name of the file.
        size: size of the file in bytes.
        trailing: bytes after the described object.
        encoding: binary or ASCII, byte order, size of a long.
        nodes: the tree, each node before its children.
        classes: class name -> number of objects.
        tensors: number of tensors.
        storages: number of storages.
        tensor_bytes: bytes of all storages; memory that several tensors view counts once.
        functions: number of serialized Lua functions.
        models: key for ``load`` and ``--key`` -> class, of every module that can be converted separately.
    """

    file: str
    size: int
    encoding: str
    nodes: list[Node] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)
    tensors: int = 0
    storages: int = 0
    tensor_bytes: int = 0
    functions: int = 0
    models: dict[str, str] = field(default_factory=dict)
    trailing: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, without attributes of nodes that are None."""
        nodes = [{k: v for k, v in vars(node).items() if v is not None} for node in self.nodes]
        return {f.name: nodes if f.name == "nodes" else getattr(self, f.name) for f in fields(self)}

    def lines(self, verbose: bool = False) -> Iterator[str]:
        """Return the description as lines of text, without terminal control sequences."""
        return (row.bars + row.name + row.text for row in self.rows(verbose))

    def rows(self, verbose: bool = False) -> Iterator[Row]:
        """Yield each line as a :class:`Row`; ``verbose`` adds stride and offset of each tensor."""
        for bars, name, text, kind in self._rows(verbose):
            yield Row(bars, printable(name), printable(text), kind)

    def _rows(self, verbose: bool) -> Iterator[tuple[str, str, str, str]]:
        yield "", "", f"{self.file}: {self.encoding}, {format_bytes(self.size)}", "file"
        nodes = list(_with_omissions(self.nodes))
        for node, bars in zip(nodes, _bars(nodes), strict=True):
            strided = verbose and node.shape
            layout = f", stride {'x'.join(map(str, node.stride or ()))}, offset {node.offset}" if strided else ""
            yield bars, f"{node.key.removeprefix('.')}: " if node.key else "", node.text + layout, node.kind
        yield "", "", "", ""
        for key, class_name in self.models.items():
            where = f"--key {shortened(key, LONGEST_PATH)!r}" if key else "the file itself"
            yield "", "", f"model {shortened(class_name, LONGEST_KEY)}, {where}", "model"
        tensors, storages = counted(self.tensors, "tensor"), counted(self.storages, "storage")
        yield "", "", f"{tensors} in {storages}, {format_bytes(self.tensor_bytes)}", "total"
        if self.trailing:
            text = f"{counted(self.trailing, 'byte')} after this object: more objects (read_all), or unrelated data"
            yield "", "", text, "total"
        if self.functions:
            yield "", "", f"{counted(self.functions, 'Lua function')}, kept as bytes and never run", "total"
        for name, count in sorted(self.classes.items(), key=lambda c: (-c[1], c[0])):
            yield "", f"{count:6} ", name, "object"


class Row(NamedTuple):
    """One line of a description.

    Attributes:
        bars: the tree lines at the beginning, as in ``│  ├─``.
        name: key of the value in its parent and a colon, or the number of objects of a class.
        text: description.
        kind: kind of the node, or ``file``, ``omitted``, ``model``, ``total``.
    """

    bars: str
    name: str
    text: str
    kind: str


def continued(bars: str) -> str:
    """Return the tree lines for a wrapped line, from the tree lines of the first line."""
    return bars.replace("├─ ", "│  ").replace("└─ ", "   ")


@wrap_errors(T7Error, "describing")
def describe(
    path: Origin, *, limit: int = 100, depth: int = 50, read: Reads = read_local, **options: Unpack[ReadKeywords]
) -> Description:
    """Describe a .t7 file. Reads the structure of the file, but no elements of tensors.

    Args:
        path: the file.
        limit: maximum number of listed entries of a table.
        depth: maximum number of listed levels; the totals count all levels.
        read: returns the content of the file and its encoding.
        **options: see :class:`~dpnn_bridge.loaders.t7_reader.ReadOptions`.

    Raises:
        T7Error: the file cannot be read.
        OptionError: ``limit`` or ``depth`` is negative.

    Examples:
        >>> print(*describe("model.t7").lines(), sep="\\n")
    """
    if limit < 0 or depth < 0:
        raise OptionError(f"describe: limit={limit}, depth={depth}: expected numbers from 0")
    chosen = ReadOptions(**options)
    with local_file(path) as file:
        root, encoding = read(file, chosen)
        size = file_status(file.path).st_size
    description = Description(name_of(path), size, str(encoding))
    _Traversal(description, limit, depth).traverse(root)
    found = candidates(root, is_known=looks_like_module)[:MAX_MODELS]
    description.trailing = encoding.trailing
    description.models = {c.key: c.obj.class_name for c in found}
    return description


class _Traversal:
    def __init__(self, description: Description, limit: int, depth: int) -> None:
        self.description, self.limit, self.depth = description, limit, depth
        self.positions: dict[int, _Position] = {}
        self.storages: dict[int, int] = {}
        self.classes: Counter[str] = Counter()
        self.modules: list[tuple[int, Node]] = []
        self.names: dict[int, str] = {}
        self.texts: dict[int, tuple[str, str]] = {}

    def traverse(self, root: Any) -> None:
        self.depth = min(self.depth, DEEPEST)
        stack: list[tuple[Any, _Position, int, bool]] = [(root, None, 0, True)]
        while stack:
            value, position, depth, listed = stack.pop()
            listed = listed and depth <= self.depth
            node = self.node(value, position, depth) if listed else None
            children: list[tuple[str, Any]] = []
            if isinstance(value, _COMPOUND) and id(value) not in self.positions:
                self.positions[id(value)] = position
                self.count(value)
                children = _children(value)
            if node is not None:
                self.description.nodes.append(node)
                node.omitted = len(children) if depth == self.depth else max(0, len(children) - self.limit)
            stack.extend(
                (child, (position, label), depth + 1, listed and i < self.limit)
                for i, (label, child) in reversed(list(enumerate(children)))
            )
        for identity, node in self.modules:
            if name := self.names.get(identity):
                node.name = shortened(name, LONGEST_KEY)
                node.text = f"{node.class_name} {node.name!r}{node.text.removeprefix(node.class_name or '')}"
        self.description.classes = dict(self.classes)
        self.description.storages = len(self.storages)

    def count(self, value: Any) -> None:
        if isinstance(value, LuaObject):
            self.classes[value.class_name] += 1
            if is_module(value) and (name := given_name(value)):
                self.names[id(value)] = name
        elif isinstance(value, LuaTable):
            module = value.get("module")  # a node of nngraph
            if isinstance(module, LuaObject) and (name := node_name(value)):
                self.names.setdefault(id(module), name)
        elif isinstance(value, LuaFunction):
            self.description.functions += 1
        elif isinstance(value, LuaTensor):
            self.description.tensors += 1
            self.storage(value.storage)
        elif isinstance(value, LuaStorage):
            self.storage(value)

    def storage(self, storage: LuaStorage | None) -> int | None:
        if storage is None:
            return None
        if id(storage) not in self.storages:
            self.storages[id(storage)] = len(self.storages) + 1
            self.description.tensor_bytes += storage.size * storage.dtype.itemsize
        return self.storages[id(storage)]

    def kind(self, value: Any) -> tuple[str, str]:
        """Return the kind of a value and its description, which is cached for tables, objects and tensors."""
        if not isinstance(value, _COMPOUND):
            return _kind(value)
        if id(value) not in self.texts:
            self.texts[id(value)] = _kind(value)
        return self.texts[id(value)]

    def node(self, value: Any, position: _Position, depth: int) -> Node:
        kind, text = self.kind(value)
        node = Node(depth, position[1] if position else "", _path(position), kind, text)
        if isinstance(value, (LuaObject, LuaTensor, LuaStorage)):
            node.class_name = shortened(value.class_name, LONGEST_KEY)
        if isinstance(value, LuaObject):
            self.modules.append((id(value), node))
        if isinstance(value, LuaTensor):
            node.shape, node.stride, node.offset = value.shape, value.stride, value.offset
            node.bytes, is_shared = value.size * value.dtype.itemsize, id(value.storage) in self.storages
            node.storage = self.storage(value.storage)
            if node.storage is not None:
                node.text += f", {'shares ' if is_shared else ''}storage {node.storage}"
        elif isinstance(value, LuaStorage):
            node.bytes, node.storage = value.size * value.dtype.itemsize, self.storage(value)
            node.text += f", storage {node.storage}"
        elif isinstance(value, LuaFunction):
            node.bytes = len(value.bytecode)
        if isinstance(value, _COMPOUND) and id(value) in self.positions:
            node.first = _path(self.positions[id(value)])
            node.text += f", the same as {node.first or 'the root'}"
        return node


def _path(position: _Position) -> str:
    """Return the path of a position; a very long path is shortened to its end."""
    labels: list[str] = []
    length = 0
    while position is not None and length <= LONGEST_PATH and len(labels) <= LONGEST_PATH:
        position, label = position
        labels.append(label)
        length += len(label)
    path = "".join(reversed(labels)).removeprefix(".")
    return path if position is None and length <= LONGEST_PATH else "…" + path[-LONGEST_PATH // 2 :]


def _kind(value: Any) -> tuple[str, str]:
    """Return the kind of a value and its description."""
    if value is None:
        return "nil", "nil"
    if isinstance(value, bool):
        return "boolean", str(value).lower()
    if isinstance(value, (int, float)):
        return "number", repr(value)
    if isinstance(value, str):
        return "string", repr(value) if len(value) <= 60 else f"{value[:60]!r}… ({len(value)} characters)"
    if isinstance(value, LuaTable):
        return "table", f"table of {len(value)}" if len(value) else "empty table"
    if isinstance(value, LuaFunction):
        return "function", f"function, {shortened(str(describe_bytecode(value.bytecode)), LONGEST_KEY)}"
    name = shortened(value.class_name, LONGEST_KEY)
    if isinstance(value, LuaTensor):
        size = f"{'x'.join(map(str, value.shape))}, {format_bytes(value.size * value.dtype.itemsize)}"
        return "tensor", f"{name} {size if value.shape else 'empty'}"
    if isinstance(value, LuaStorage):
        return "storage", f"{name} of {value.size}"
    version = f" (version {value.version})" if value.version not in (0, 1) else ""
    return "object", f"{name}{version}"


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, LuaTable):
        return list(_entries(value))
    if isinstance(value, LuaObject):
        header = [(f".<header {i}>", child) for i, child in enumerate(value.header, 1)]
        if isinstance(value.payload, LuaTable):
            return header + _children(value.payload)
        return header if value.payload is None or isinstance(value.payload, bytes) else [*header, ("", value.payload)]
    if isinstance(value, LuaFunction):
        if isinstance(value.upvalues, LuaTable):
            return _children(value.upvalues)
        return [] if value.upvalues is None else [(".upvalues", value.upvalues)]
    return []


def _entries(table: LuaTable) -> Iterator[tuple[str, Any]]:
    """Yield the labels and values of a table. A key that is itself a table or object is yielded before its value."""
    for key, child in table.entries.items():
        label = shortened(key_text(key), LONGEST_KEY)
        if isinstance(key, _COMPOUND):
            yield f"{label} (key)", key
        yield label, child


def _with_omissions(nodes: list[Node]) -> Iterator[Node]:
    """Yield the nodes; after the last listed entry of an incomplete node, yield a node with the omitted number."""
    unfinished: list[Node] = []
    for node in [*nodes, None]:
        while unfinished and (node is None or unfinished[-1].depth >= node.depth):
            done = unfinished.pop()
            if done.omitted:
                yield Node(done.depth + 1, "", "", "omitted", f"… {done.omitted} more")
        if node is not None:
            unfinished.append(node)
            yield node


def _bars(nodes: list[Node]) -> list[str]:
    """Return the tree lines of each node."""
    bars, open_levels = [], set()
    for node in reversed(nodes):
        open_levels = {level for level in open_levels if level <= node.depth}
        if node.depth:
            outer = "".join("│  " if level in open_levels else "   " for level in range(1, node.depth))
            bars.append(outer + ("├─ " if node.depth in open_levels else "└─ "))
        else:
            bars.append("")
        open_levels.add(node.depth)
    return bars[::-1]


def format_bytes(count: int) -> str:
    """Return ``1234567`` as ``1.2 MB``."""
    if count < 1000:
        return counted(count, "byte")
    value = count / 1000
    for unit in ("kB", "MB", "GB"):
        if value < 999.5:  # otherwise it is rounded to 1000
            return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
