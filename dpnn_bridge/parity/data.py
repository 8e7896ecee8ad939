"""Verify a converted file, whose source contains a model or data."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import Unpack

from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.errors import ConversionError, NoReferenceError
from dpnn_bridge.files.converting import data_difference
from dpnn_bridge.outputs.options import ConvertKeywords
from dpnn_bridge.parity.verification import Verification


def verify_model_or_data(
    verify: Callable[[], Verification], source: StrPath, converted: StrPath | None, **options: Unpack[ConvertKeywords]
) -> Verification | str:
    """Verify the model of a file, or compare the data if the conversion of the file writes data.

    Args:
        verify: verifies the model, and raises an error if there is none.
        source: the ``.t7`` file.
        converted: the converted file, or None.
        **options: options of the conversion, of which ``key``, ``dtype``, ``lua`` and ``sandbox`` have an effect.

    Returns:
        The verification of the model, or the first difference of the data, which is empty if the data are equal.
    """
    try:
        return verify()
    except (ConversionError, NoReferenceError):  # an object, or a table with the fields of a reference, may be data
        difference = None if converted is None else data_difference(source, converted, **options)
        if difference is None:
            raise
        return difference
