"""Provide methods of dpnn's modules as functions for any ``torch.nn.Module``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpnn_bridge.base.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from dpnn_bridge.training.flat_vector import flatten, get_parameters, load_flat
    from dpnn_bridge.training.methods import (
        cast,
        check_parameters,
        grad_param_clip,
        max_param_norm,
        momentum_grad_parameters,
        parameters,
        reinforce,
        serialized,
        shared_clone,
        update_grad_parameters,
        update_parameters,
        weight_decay,
        zero_grad_parameters,
    )

__all__ = [
    "cast",
    "check_parameters",
    "flatten",
    "get_parameters",
    "grad_param_clip",
    "load_flat",
    "max_param_norm",
    "momentum_grad_parameters",
    "parameters",
    "reinforce",
    "serialized",
    "shared_clone",
    "update_grad_parameters",
    "update_parameters",
    "weight_decay",
    "zero_grad_parameters",
]

_MODULES = {
    **dict.fromkeys(__all__, "training.methods"),
    **dict.fromkeys(("flatten", "get_parameters", "load_flat"), "training.flat_vector"),
    **dict.fromkeys(("renormed", "visited_rows"), "training.methods"),  # for optimizers
}

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
