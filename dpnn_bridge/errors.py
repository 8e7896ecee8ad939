"""Everything that dpnn_bridge raises on purpose.

::

    DpnnBridgeError                 exit code 1
    ├── OptionError                 2   an argument is none that the function takes (a TypeError and ValueError)
    ├── FileAccessError             1   the system refused: no permission, no space, a failing disk (an OSError)
    ├── T7Error                     3   the input cannot be read
    │   ├── NotT7Error                  it is another kind of file; says which and what to do
    │   │   └── MissingFileError        it is not there (a FileNotFoundError)
    │   ├── T7FormatError               it is damaged: path in the graph and byte offset
    │   └── T7LimitError                it asks for more than the caller's limits allow
    ├── VerificationError           4   a written file or a parity check does not match
    ├── ConversionError             5   a Lua object cannot become a module, or the reverse
    │   ├── UnsupportedClassError       classes without a mapping, all of them at once
    │   ├── ModelNotFoundError          the file holds no module, or none at the key
    │   ├── ConversionLimitError        the model declares more than its file holds
    │   └── LuaValueError               a value that no .t7 holds (a TypeError, ValueError and OverflowError)
    ├── OutputError                 6   the output cannot be written: the disk, or what is in its place
    │   └── OutputExistsError           a file is there already and ``force`` was not given
    ├── LuaBridgeError              7   Lua code raised
    └── MissingPackageError         8   an optional package is not installed (an ImportError)

``exit_code`` is what the command line tools return for each. Click itself uses 2 for wrong usage.

Errors in brackets are Python's own, which these are as well. What else a file, a plugin or a disk makes Python raise
leaves the public functions as one of these errors too, with the original as its cause
(:mod:`dpnn_bridge.base.boundary`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dpnn_bridge.base.display import printable, printable_lines, shortened


class DpnnBridgeError(Exception):
    """Base of all errors; ``str(error)`` is one readable message, in which nothing acts on a terminal."""

    exit_code = 1

    def __str__(self) -> str:
        return printable_lines(str(self.args[0])) if self.args else ""


class OptionError(DpnnBridgeError, TypeError, ValueError):
    """An argument is none that the function takes."""

    exit_code = 2


class FileAccessError(DpnnBridgeError, OSError):
    """The operating system refused: no permission, no space left, a failing disk."""


class T7Error(DpnnBridgeError):
    """The input cannot be read as a Torch7 file."""

    exit_code = 3


class NotT7Error(T7Error):
    """The file is something else (a PyTorch zip, gzip, HTML, a Git-LFS pointer, …) or is missing or empty."""


class MissingFileError(NotT7Error, FileNotFoundError):
    """The file is missing."""


class T7FormatError(T7Error):
    """The stream breaks the .t7 format.

    Attributes:
        offset: byte offset in the file where reading stopped, or None.
        path: path of the object being read, such as ``model.modules[3].weight``.
    """

    def __init__(self, message: str, *, offset: int | None = None, path: str = "", source: str = "") -> None:
        self.offset, self.path, self.source = offset, path, source
        parts = [source, f"at {path}" if path else "", "" if offset is None else f"byte {offset}"]
        where = ", ".join(part for part in parts if part)
        super().__init__(f"{where}: {message}" if where else message)


class T7LimitError(T7FormatError):
    """The stream is well formed so far but exceeds a limit (depth, objects, memory) of the caller."""


class T7Warning(UserWarning):
    """A file was read, but not all of it."""


class VerificationError(DpnnBridgeError):
    """What was written, or computed, differs from what it must equal."""

    exit_code = 4


class NoReferenceError(VerificationError):
    """A file that was given as a reference is none; nothing was compared."""

    exit_code = 3


class ConversionError(DpnnBridgeError):
    """A Lua object cannot be turned into a module, or a module into a Lua object.

    Attributes:
        path: path of the object, such as ``model.modules[3]``; empty for the root.
        class_name: its Lua class, or the Python type in an export.
        reason: the message without the path and the class.
    """

    exit_code = 5

    def __init__(self, message: str, *, path: str = "", class_name: str = "") -> None:
        self.path, self.class_name, self.reason = path, class_name, message
        where = f"{path or 'root'} ({shortened(printable(class_name))})" if class_name else path
        super().__init__(f"{where}: {message}" if where else message)


#: classes without a mapping that a message names, and fields of each
MOST_CLASSES, MOST_FIELDS = 50, 40


@dataclass
class UnsupportedClass:
    """One class that cannot be converted: where it is and what it holds.

    Attributes:
        class_name: the Lua class.
        paths: where its objects are.
        fields: their fields.
        nearest: the known class with the most similar name.
        reason: why the built-in mapping cannot build the object; empty for a class without a mapping.
    """

    class_name: str
    paths: list[str] = field(default_factory=list)
    fields: tuple[str, ...] = ()
    nearest: str | None = None
    reason: str = ""


class UnsupportedClassError(ConversionError):
    """The file holds classes without a mapping, or objects that the mapping of their class cannot build.

    Attributes:
        classes: one :class:`UnsupportedClass` per class and set of fields.
    """

    def __init__(self, classes: list[UnsupportedClass]) -> None:
        self.classes = classes
        unknown = sum(not c.reason for c in classes)
        counts = ((unknown, "without a mapping"), (len(classes) - unknown, "that the built-in mapping cannot convert"))
        lines = [" and ".join(f"{n} Lua class{'es' * (n != 1)} {what}" for n, what in counts if n) + ":"]
        for c in classes[:MOST_CLASSES]:
            more = f" and {len(c.paths) - 1} more" if len(c.paths) > 1 else ""
            lines.append(f"  {shortened(printable(c.class_name))} at {c.paths[0] or 'root'}{more}")
            if c.reason:
                lines.append(f"    {printable(c.reason)}")
            fields = ", ".join(shortened(printable(name), 60) for name in c.fields[:MOST_FIELDS]) or "none"
            lines.append(f"    fields: {fields}{', …' if len(c.fields) > MOST_FIELDS else ''}")
            if c.nearest:
                lines.append(f"    nearest known class: {c.nearest}")
        if len(classes) > MOST_CLASSES:
            lines.append(f"  … and {len(classes) - MOST_CLASSES} more")
        variant = "; for a variant of a known class, the mapping overrides `matches`" if unknown < len(classes) else ""
        lines.append(
            "To fix this: map the class with @dpnn_bridge.lua_class in a Python file and pass it as a plugin "
            f"(--plugin my_layers.py{variant}); let the Lua file that defines the class compute it "
            "(--lua my_layers.lua); or convert with placeholders that raise when they run (--allow-unsupported)."
        )
        super().__init__("\n".join(lines))
        if len(classes) == 1:
            self.path, self.class_name = classes[0].paths[0], classes[0].class_name


class ModelNotFoundError(ConversionError):
    """No module was found in the file, none at ``key``, or several where one is needed."""


class ConversionLimitError(ConversionError):
    """The model declares more than its file holds: sizes, counts or repetitions that nothing in the file fills."""


class LuaValueError(ConversionError, TypeError, ValueError, OverflowError):
    """A value that no ``.t7`` file holds: of another type, inexact as a double, too large, or endless."""


class OutputError(DpnnBridgeError):
    """The output cannot be written: a full or read-only disk, or something in its place that is never replaced."""

    exit_code = 6


class OutputExistsError(OutputError):
    """The output file exists and may not be replaced."""


class LuaBridgeError(DpnnBridgeError):
    """Lua code raised an error."""

    exit_code = 7


class MissingPackageError(DpnnBridgeError, ImportError):
    """What was asked for needs an optional package, or a newer one; the message has the command that installs it."""

    exit_code = 8


#: exit code of a command -> meaning, for help and documentation
EXIT_CODES = {
    0: "done; dpnn-verify: nothing is different, or nothing was compared",
    1: "operating-system error",
    2: "invalid arguments",
    3: "an input cannot be read",
    4: "verification failed; dpnn-verify: something is different",
    5: "a class, model or value cannot be converted, or a model cannot run",
    6: "an output exists (see --force), or cannot be written",
    7: "Lua failed",
    8: "a package is missing",
    130: "interrupted",
}
