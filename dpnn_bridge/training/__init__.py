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

_MODULES = {
    "flatten": "training.flat_vector",
    "get_parameters": "training.flat_vector",
    "load_flat": "training.flat_vector",
    "cast": "training.methods",
    "check_parameters": "training.methods",
    "grad_param_clip": "training.methods",
    "max_param_norm": "training.methods",
    "momentum_grad_parameters": "training.methods",
    "parameters": "training.methods",
    "reinforce": "training.methods",
    "renormed": "training.methods",
    "serialized": "training.methods",
    "shared_clone": "training.methods",
    "update_grad_parameters": "training.methods",
    "update_parameters": "training.methods",
    "visited_rows": "training.methods",
    "weight_decay": "training.methods",
    "zero_grad_parameters": "training.methods",
}

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

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
