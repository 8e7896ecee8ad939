"""Implement ``load_lua`` with the interface of PyTorch 0.4."""

from __future__ import annotations

import warnings
from collections import deque
from typing import Any, Literal

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.errors import ConversionError, T7Error
from dpnn_bridge.legacy.decoding import Decoder
from dpnn_bridge.legacy.torch_nn import TorchNN
from dpnn_bridge.loaders.origin import Origin
from dpnn_bridge.loaders.t7_reader import read_all, read_t7


@checks_arguments
@wrap_errors(ConversionError, "loading")
def load_lua(
    filename: Origin,
    unknown_classes: bool = False,
    long_size: Literal[4, 8] | None = None,
    force_8bytes_long: bool = False,
    *,
    list_heuristic: bool = True,
    int_heuristic: bool = True,
    torch_nn: bool = False,
    force_deserialize_classes: bool = True,
) -> Any:
    """Load a ``.t7`` file as ``torch.utils.serialization.load_lua`` of PyTorch 0.4 did.

    Args:
        filename: the file.
        unknown_classes: return objects of classes that ``torch.legacy.nn`` did not have as :class:`TorchObject`. By
            default, classes that dpnn_bridge supports become modules too, and other classes are an error.
        long_size: bytes of a C ``long``, 4 or 8; default: detected automatically.
        force_8bytes_long: equivalent to ``long_size=8``.
        list_heuristic: return tables with the keys 1, 2, … as lists.
        int_heuristic: return integral numbers as ints.
        torch_nn: return modules of ``torch.nn`` instead, as dpnn_bridge 0.1 did; the heuristics then have no effect.
            Deprecated: use :func:`dpnn_bridge.load` or :func:`dpnn_bridge.load_checkpoint`.
        force_deserialize_classes: ignored, as in PyTorch 0.4.

    Returns:
        The converted value: tables are lists, or dicts whose keys are also attributes; CUDA tensors are on the CPU;
        modules and criterions are objects of :mod:`dpnn_bridge.legacy.nn`. Several references to an object stay
        references to one object.

    Raises:
        T7Error: the file cannot be read.
        UnsupportedClassError: the file contains modules of unknown classes, and ``unknown_classes`` is False.

    Differs from PyTorch 0.4:
        ASCII files, and files with another byte order or long size, can be read. More classes are supported. Without
        CUDA, CUDA tensors load on the CPU. Strings that are not ASCII are kept.

    Examples:
        >>> net = dpnn_bridge.load_lua("model.t7")             # doctest: +SKIP
        >>> net.evaluate()                                     # doctest: +SKIP
        >>> features = net.forward(image); net.get(3).output   # doctest: +SKIP
    """
    root = read_t7(filename, long_size=8 if force_8bytes_long else long_size)
    if torch_nn:
        warnings.warn(
            "load_lua(torch_nn=True) is deprecated: use dpnn_bridge.load or dpnn_bridge.load_checkpoint",
            DeprecationWarning,
            stacklevel=4,
        )
        return TorchNN(unknown_classes).value(root)
    return Decoder(unknown_classes, list_heuristic, int_heuristic).decode(root)


#: the exception of PyTorch 0.4 for a damaged file
T7ReaderException = T7Error


class T7Reader:
    """Reader for consecutive objects of an open file, as ``torch.utils.serialization.T7Reader``.

    Args:
        fileobj: a file that is open for reading bytes.
        list_heuristic, int_heuristic, unknown_classes, long_size: see :func:`load_lua`.
    """

    def __init__(
        self,
        fileobj: Any,
        list_heuristic: bool = True,
        int_heuristic: bool = True,
        unknown_classes: bool = False,
        long_size: Literal[4, 8] | None = None,
    ) -> None:
        self.f = fileobj
        self._decoder = Decoder(unknown_classes, list_heuristic, int_heuristic)
        self._long_size: Literal[4, 8] | None = long_size
        self._objects: deque[Any] | None = None

    def read(self) -> Any:
        """Return the next object.

        Raises:
            EOFError: the file contains no more objects.
        """
        if self._objects is None:
            self._objects = deque(read_all(self.f, long_size=self._long_size))
        if not self._objects:
            raise EOFError("no more objects in the file")
        return self._decoder.decode(self._objects.popleft())
