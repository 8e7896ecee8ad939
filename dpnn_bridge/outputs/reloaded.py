"""Check that the content of a written file loads as the written module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from dpnn_bridge.base.boundary import as_package_error
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.placeholder import Placeholder, bridges_of
from dpnn_bridge.errors import ConversionError, DpnnBridgeError
from dpnn_bridge.outputs.attributes import changed_attributes

#: attributes that are not compared: sizes and dtypes, which follow from the tensors, whether gradients are sparse and
#: whether memory is saved, and what no file has: an option of loading, and a size of one class
_NOT_COMPARED = frozenset(
    [
        *("in_features", "out_features", "num_embeddings", "embedding_dim", "num_parameters", "num_features"),
        *("dtype", "sparse", "inplace", "index_base", "unk_index", "image_size"),
    ]
)


def check_loads(module: nn.Module, build: Callable[[Options], nn.Module], *, same_names: bool = True) -> None:
    """Check that the written content of a module can be loaded.

    Args:
        module: the written module.
        build: function that creates a module from the content, with the given options.
        same_names: whether parameters and buffers must have the same names and shapes.

    Raises:
        ConversionError: the content cannot be loaded, or has other parameters, buffers or settings; the message
            contains the path of the submodule.
    """
    try:
        try:
            loaded = build(_options_of(module, pending=True))  # without the elements of large parameters
        except ConversionError:  # some classes compute with these elements
            loaded = build(_options_of(module, pending=False))
    except Exception as e:
        reason = e if isinstance(e, DpnnBridgeError) else as_package_error(e, ConversionError, "loading")
        raise ConversionError(f"the written model cannot be loaded again: {reason}") from e
    if same_names:
        _check_names(module, loaded)
    _check_settings(module, loaded)


def _options_of(module: nn.Module, pending: bool) -> Options:
    """Return the options to load a written module, with the Lua bridges of its layers.

    Args:
        module: the written module.
        pending: see :class:`Options`.
    """
    bridges = bridges_of(module.modules())

    def in_lua(obj: Any, ctx: Any) -> nn.Module | None:
        return next((found for b in bridges if (found := b.convert(obj, ctx)) is not None), None)

    def overrides(name: str) -> bool:
        return any(b.defines(name) for b in bridges)

    has_placeholders = any(isinstance(part, Placeholder) for part in module.modules())
    more: dict[str, Any] = {"fallback": in_lua, "overrides": overrides} if bridges else {}
    if len(bases := {part.index_base for part in module.modules() if hasattr(part, "index_base")}) == 1:
        more["index_base"] = bases.pop()
    return Options(allow_unsupported=has_placeholders or "unknown", pending=pending, **more)


def not_rebuilt(root: nn.Module, name: str, file: str) -> ConversionError:
    """Return the error for a tensor or submodule that was added to a layer after construction.

    Args:
        root: the model.
        name: name of the tensor or submodule in the ``state_dict``.
        file: type of the output for the message, such as ``"a .py file"``.
    """
    path, _, own = name.rpartition(".")
    module = root.get_submodule(path)
    child = module._modules.get(own)
    kind = "parameter" if own in module._parameters else "buffer"
    what = f"{kind} {own!r}" if child is None else f"child {own!r} ({type(child).__name__})"
    return ConversionError(
        f"its {what} is not created by the constructor of its class, so {file} cannot rebuild it; create it in the "
        "constructor of your own class, registered with @lua_class, or write .npz, which contains all weights",
        path=path,
        class_name=type(module).__name__,
    )


def _modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Return all modules with all their names, including names of shared modules."""
    return root.named_modules(remove_duplicate=False)


def _check_names(module: nn.Module, again: nn.Module) -> None:
    """Check that a loaded module has tensors of the same names and shapes as the written module.

    Raises:
        ConversionError: a tensor differs.
    """
    written, loaded, modules = module.state_dict(), again.state_dict(), dict(_modules(module))
    for name in [*written, *(n for n in loaded if n not in written)]:
        before, after = (str(tuple(t.shape)) if (t := d.get(name)) is not None else "none" for d in (written, loaded))
        if before == after:
            continue
        owner = name.rpartition(".")[0]
        while owner not in modules:
            owner = owner.rpartition(".")[0]
        if isinstance(modules[owner], Placeholder):  # its class may have a mapping now
            continue
        if name not in loaded:
            built = {path for path, _ in _modules(again)}
            while (owner := name.rpartition(".")[0]) not in built:
                name = owner
            raise not_rebuilt(module, name, "the file")
        raise ConversionError(
            f"{name} of shape {before} would be loaded from the written file with shape {after}: the mapping of its "
            "class lacks a constructor argument",
            path=owner,
            class_name=type(modules[owner]).__name__,
        )


def _check_settings(module: nn.Module, again: nn.Module) -> None:
    """Check that loaded modules have the settings of the written modules of the same name and class.

    A mapping writes the settings that its Lua class has. Others, such as the dilation of an ``nn.SpatialConvolution``,
    may have been changed since the module was loaded. The Lua class of a layer that was created in PyTorch is chosen by
    its settings; those that Lua expresses in another way, such as ``padding="same"``, are not compared.

    Raises:
        ConversionError: a setting differs.
    """
    loaded = dict(_modules(again))
    for path, wanted in _modules(module):
        found = loaded.get(path)
        if found is None or type(found) is not type(wanted) or isinstance(wanted, Placeholder):
            continue
        if record_of(wanted) is None and type(wanted).__module__.startswith("torch.nn."):
            continue
        for name in changed_attributes(wanted, found):
            if name in vars(found) and name not in _NOT_COMPARED:
                value, kind = getattr(wanted, name), type(wanted).__name__
                raise ConversionError(
                    f"its {name} is {value!r}, and would be {vars(found)[name]!r} in the file, because its Lua class "
                    f"has no such setting; create a new {kind} with {name}={value!r} and copy the weights, or write a "
                    ".py file",
                    path=path,
                    class_name=kind,
                )
