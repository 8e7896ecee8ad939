"""Describe operations and their arguments with PyTorch's names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dpnn_bridge.porting.tape import Node

_NAMES = {
    "max_pool2d_with_indices": "max_pool2d",
    "max_pool3d_with_indices": "max_pool3d",
    "_adaptive_avg_pool2d": "adaptive_avg_pool2d",
    "_adaptive_avg_pool3d": "adaptive_avg_pool3d",
    "constant_pad_nd": "zero padding (pad)",
    "reflection_pad1d": "reflection padding (pad)",
    "reflection_pad2d": "reflection padding (pad)",
    "replication_pad1d": "replication padding (pad)",
    "replication_pad2d": "replication padding (pad)",
    "replication_pad3d": "replication padding (pad)",
    "upsample_nearest2d": "nearest-neighbour upsampling",
    "upsample_bilinear2d": "bilinear upsampling",
    "grid_sampler_2d": "grid_sample",
    "affine_grid_generator": "affine_grid",
    "_log_softmax": "log_softmax",
    "_softmax": "softmax",
    "native_batch_norm": "batch or instance norm",
    "addmm": "linear",
    "mm": "linear",
    "cat": "concatenation (cat)",
    "slice": "crop (slice)",
    "native_dropout": "dropout",
    "linalg_vector_norm": "norm",
    "_scaled_dot_product_flash_attention_for_cpu": "scaled_dot_product_attention",
}
_KINDS = {
    "conv": "convolution",
    "transposed conv": "transposed convolution",
    "batch norm": "batch norm (running statistics)",
    "batch norm over the batch": "batch norm (statistics of the batch, track_running_stats=False)",
}
_HIDDEN_NAMES = (
    "cudnn_enabled implicit scale_grad_by_freq sparse memory_format dtype layout device pin_memory half_to_float"
    " generator train training non_blocking input size alpha_ cudnn_enable"
)
#: arguments that are never shown
_HIDDEN = frozenset(_HIDDEN_NAMES.split())
#: arguments that are shown even if they are False
_ALWAYS = frozenset(("align_corners", "ceil_mode", "count_include_pad"))
#: default values, which are not shown; for operations other than convolutions, only padding and dilation
_DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0, "groups": 1}
_RENAMED = {
    "mul": {"other": "factor"},
    "div": {"other": "divisor"},
    "add": {"other": "constant"},
    "sub": {"other": "constant"},
}


def name_of(node: Node) -> str:
    """Return PyTorch's name of the operation."""
    if node.event is not None:
        kind = str(node.event.kind)
        return _KINDS.get(kind, kind)
    if node.op == "native_batch_norm":
        training = next((a for a in node.args[5:6] if isinstance(a, bool)), False)
        return "instance norm (statistics of the input)" if training else "batch norm"
    return _NAMES.get(node.op, node.op)


def options_of(node: Node) -> dict[str, Any]:
    """Return the arguments that may change the result."""
    if node.event is not None:
        return {k: v for k, v in node.event.options.items() if k != "momentum"}
    options = {k: v for k, v in node.options().items() if k not in _HIDDEN}
    if node.op == "native_batch_norm":
        options = {"eps": options.get("eps")}
    if "pool" in node.op and not options.get("stride", True):
        options["stride"] = options.get("kernel_size")
    if node.op in ("add", "sub") and options.get("alpha") == 1:
        del options["alpha"]
    if node.op in _RENAMED:
        options = {_RENAMED[node.op].get(k, k): v for k, v in options.items()}
    return options


def described(node: Node) -> str:
    """Return the operation with its arguments, such as ``max_pool2d(kernel_size=[2, 2], ceil_mode=True)``."""
    defaults = _DEFAULTS if node.event is not None else {k: _DEFAULTS[k] for k in ("padding", "dilation")}
    shown = [
        f"{k}={_value(v)}"
        for k, v in options_of(node).items()
        if v not in (None, [], ()) and (v is not False or k in _ALWAYS) and not _same([defaults.get(k)], _listed(v))
    ]
    return f"{name_of(node)}({', '.join(shown)})" if shown else name_of(node)


def differences(here: dict[str, Any], there: dict[str, Any]) -> str:
    """Describe the arguments in which two operations of one type differ; empty if they do not differ."""
    found = [
        f"{k} {_value(here.get(k))} here, {_value(there.get(k))} in the source"
        for k in dict.fromkeys([*here, *there])
        if k != "momentum" and not _same(here.get(k), there.get(k))
    ]
    return ", ".join(found)


def aligned_windows(here: dict[str, Any], there: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of two equal convolutions without extra leading dimensions, which one of them may have."""
    both = dict(here), dict(there)
    for name in (k for k in here.keys() & there.keys() if isinstance(here[k], list) and isinstance(there[k], list)):
        count = min(len(here[name]), len(there[name]))
        for options in both:
            extra = options[name][: len(options[name]) - count]
            if all(v == _DEFAULTS.get(name) for v in extra):
                options[name] = options[name][len(extra) :]
    return both


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        a, b = _spread(a), _spread(b)
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return abs(a - b) <= 1e-6 * max(abs(a), abs(b))
    return a == b


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _spread(values: Iterable[Any]) -> list[Any]:
    """Return the sizes of a window without repetition: ``[2]`` for ``[2, 2]``."""
    values = list(values)
    return values[:1] if len(set(map(str, values))) == 1 else values


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
