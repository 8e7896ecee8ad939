"""Define all errors that dpnn_bridge raises on purpose.

::

    DpnnBridgeError                 exit code 1
    ├── OptionError                 2   invalid argument (a TypeError and ValueError)
    ├── FileAccessError             1   operating-system error: no permission, no space, a failing disk (an OSError)
    ├── T7Error                     3   the input cannot be read
    │   ├── NotT7Error                  another type of file; the message names the type and the next step
    │   │   └── MissingFileError        the file is missing (a FileNotFoundError)
    │   ├── T7FormatError               the file is damaged: path in the graph and byte offset
    │   └── T7LimitError                the file exceeds the caller's limits
    ├── VerificationError           4   a written file or a parity check does not match
    │   └── NoReferenceError        3   the file is not a reference; nothing was compared
    ├── ConversionError             5   a Lua object cannot become a module, or the reverse
    │   ├── UnsupportedClassError       the file contains classes without a mapping; lists all of them
    │   ├── ModelNotFoundError          the file contains no module, or no module at the key
    │   ├── ConversionLimitError        the model declares larger sizes than its file can contain
    │   └── LuaValueError               a value that .t7 cannot store (a TypeError, ValueError and OverflowError)
    ├── OutputError                 6   the output cannot be written: the disk, or an existing directory or device
    │   └── OutputExistsError           the output exists and ``force`` is False
    ├── LuaBridgeError              7   Lua code raised an error
    └── MissingPackageError         8   an optional package is not installed (an ImportError)

``exit_code`` is the exit code of the commands for each error. Click itself uses 2 for invalid arguments.

Python exceptions in parentheses are further base classes of the errors. Any other exception that a file, a plugin or a
disk causes in a public function is converted to one of these errors, with the original exception as its cause
(:mod:`dpnn_bridge.base.boundary`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dpnn_bridge.base.display import counted, printable, printable_lines, shortened


class DpnnBridgeError(Exception):
    """Base class of all errors. ``str(error)`` is the message without terminal control sequences.

    Line breaks in the message are escaped unless ``several_lines`` is True.
    """

    exit_code = 1
    several_lines = False

    def __str__(self) -> str:
        text = printable_lines(str(self.args[0])) if self.args else ""
        return text if self.several_lines else text.replace("\n", "\\n")


class OptionError(DpnnBridgeError, TypeError, ValueError):
    """An argument is invalid."""

    exit_code = 2


class FileAccessError(DpnnBridgeError, OSError):
    """Operating-system error: no permission, no space left, a failing disk."""


class T7Error(DpnnBridgeError):
    """The input cannot be read as a Torch7 file."""

    exit_code = 3


class NotT7Error(T7Error):
    """The file has another type (a PyTorch zip, gzip, HTML, a Git-LFS pointer, …), or is missing or empty."""


class MissingFileError(NotT7Error, FileNotFoundError):
    """The file is missing."""


class T7FormatError(T7Error):
    """The stream violates the .t7 format.

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
    """The stream exceeds a limit of the caller (depth, objects, memory)."""


class T7Warning(UserWarning):
    """Part of a file was not read, or has no effect."""


class VerificationError(DpnnBridgeError):
    """A written file or a computed result differs from the expected one."""

    exit_code = 4


class NoReferenceError(VerificationError):
    """A file is not a reference; nothing was compared."""

    exit_code = 3


class ConversionError(DpnnBridgeError):
    """A Lua object cannot be converted to a module, or a module to a Lua object.

    Attributes:
        path: path of the object, such as ``model.modules[3]``; empty for the root.
        class_name: Lua class of the object, or Python class in an export.
        reason: the message without the path and the class.
    """

    exit_code = 5

    def __init__(self, message: str, *, path: str = "", class_name: str = "") -> None:
        self.path, self.class_name, self.reason = path, class_name, message
        where = f"{path or 'root'} ({shortened(printable(class_name))})" if class_name else path
        super().__init__(f"{where}: {message}" if where else message)


#: next step after a damaged file, for messages
COPY_AGAIN = "copy or download the file again"
#: next step after a missing file, for messages
CHECK_PATH = "check the path"
#: error message for relative paths in a working directory that was removed
REMOVED_DIRECTORY = "the working directory was removed; change to another folder"
#: documentation of the export to Torch7, for messages
EXPORT_GUIDE = "docs/how-to/back-to-torch7.md"
#: maximum numbers of classes in a message, and of fields of each class
MAX_CLASSES, MAX_FIELDS = 50, 40


@dataclass
class UnsupportedClass:
    """A class that cannot be converted, with its paths and fields.

    Attributes:
        class_name: the Lua class.
        paths: paths of the objects of this class.
        fields: names of the fields of the objects.
        nearest: the supported class with the most similar name.
        reason: reason why the mapping of the class cannot convert the object; empty for a class without a mapping.
        mapped_by: the plugin or Lua file with which the file was written and which is not loaded.
    """

    class_name: str
    paths: list[str] = field(default_factory=list)
    fields: tuple[str, ...] = ()
    nearest: str | None = None
    reason: str = ""
    mapped_by: str = ""


class UnsupportedClassError(ConversionError):
    """The file contains classes without a mapping, or objects that the mapping of their class cannot convert.

    Attributes:
        classes: one :class:`UnsupportedClass` per class and set of fields.
    """

    several_lines = True

    def __init__(self, classes: list[UnsupportedClass]) -> None:
        self.classes = classes
        absent = sum(c.mapped_by != "" for c in classes)
        inconvertible = sum(c.reason != "" for c in classes)
        counts = (
            (len(classes) - absent - inconvertible, "without a mapping"),
            (inconvertible, "whose mapping cannot convert an object"),
            (absent, "of a plugin or Lua file that is not loaded"),
        )
        lines = [" and ".join(f"{counted(n, 'Lua class')} {what}" for n, what in counts if n) + ":"]
        for c in classes[:MAX_CLASSES]:
            more = f" and {len(c.paths) - 1} more" if len(c.paths) > 1 else ""
            lines.append(f"  {shortened(printable(c.class_name))} at {c.paths[0] or 'root'}{more}")
            if c.reason:
                lines.append(f"    {printable(c.reason)}")
            if c.mapped_by:
                lines.append(f"    the file was written with {shortened(printable(c.mapped_by))}")
            fields = ", ".join(shortened(printable(name), 60) for name in c.fields[:MAX_FIELDS]) or "none"
            lines.append(f"    fields: {fields}{', …' if len(c.fields) > MAX_FIELDS else ''}")
            if c.nearest:
                lines.append(f"    nearest known class: {c.nearest}")
        if len(classes) > MAX_CLASSES:
            lines.append(f"  … and {len(classes) - MAX_CLASSES} more")
        variant = "; for a variant of a known class, the mapping overrides `matches`" if inconvertible else ""
        load = "pass the plugin (--plugin, plugins=) or Lua file (--lua, lua=) that the file was written with"
        if absent == len(classes):
            lines.append(f"To fix this: {load}.")
        else:
            lines.append(
                f"To fix this: {load + '; ' if absent else ''}"
                "map the class with @dpnn_bridge.lua_class in a Python file and pass it as a plugin "
                f"(--plugin my_layers.py{variant}); let the Lua file that defines the class compute it "
                "(--lua my_layers.lua); or convert with placeholders that raise when they run (--allow-unsupported)."
            )
        super().__init__("\n".join(lines))
        if len(classes) == 1:
            self.path, self.class_name = classes[0].paths[0], classes[0].class_name

    def __reduce__(self) -> tuple[type[UnsupportedClassError], tuple[list[UnsupportedClass]]]:
        return type(self), (self.classes,)  # worker processes send errors to their parent


class ModelNotFoundError(ConversionError):
    """The file contains no module, no module at ``key``, or several modules where one is required."""


class ConversionLimitError(ConversionError):
    """The model declares larger sizes, counts or repetitions than its file can contain."""


class LuaValueError(ConversionError, TypeError, ValueError, OverflowError):
    """A value that ``.t7`` cannot store: of another type, not exact as a double, too large, or containing itself."""


class OutputError(DpnnBridgeError):
    """The output cannot be written: a full or read-only disk, or an existing path that is never replaced."""

    exit_code = 6


class OutputExistsError(OutputError):
    """The output file exists and may not be replaced."""


class LuaBridgeError(DpnnBridgeError):
    """Lua code raised an error."""

    exit_code = 7
    several_lines = True


class MissingPackageError(DpnnBridgeError, ImportError):
    """A feature requires an optional package or a newer version; the message contains the command to install it."""

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
