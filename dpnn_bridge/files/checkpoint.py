"""Load all entries of a checkpoint: its models, and the options, vocabulary and states of the training script."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard

from torch import Tensor, nn
from typing_extensions import Unpack

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.graph import dict_items, format_path
from dpnn_bridge.base.notebook import table
from dpnn_bridge.checkpoints.find import TOO_MANY, affordable, candidates, known_also
from dpnn_bridge.conversion.budget import Budget
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.conversion.options import OptionKeywords, Options
from dpnn_bridge.conversion.torch_context import TorchConversion
from dpnn_bridge.errors import ConversionError, ConversionLimitError, ModelNotFoundError
from dpnn_bridge.files import classes_in_lua, load_local, original_key
from dpnn_bridge.legacy.pickles import read_source
from dpnn_bridge.loaders.origin import Origin, local_file
from dpnn_bridge.modules.several import Models
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor
from dpnn_bridge.plugins import load_plugins

_VOCABULARY = re.compile(
    r"vocab|(idx|ix|id|index|token|word|char|label)s?_?(to|2)_?\w+|alphabet|dict(s|ionary)?$", re.I
)
_OPTIONS = re.compile(r"opts?$|options?$|config|arguments$|args$|(model|train)?_?param(eter)?s$|lmopt|settings", re.I)
_CLASSES = re.compile(r"class(es|_?names?|_?list)$|labels?$|synsets?|categories", re.I)
_OPTIMIZER = re.compile(r"optim|sgd_?state|adam|rmsprop|lmstate", re.I)
_LOSSES = re.compile(r"loss|err(or)?s?$|history|perplexit|accurac", re.I)
_INTEGER = re.compile(r"-?[0-9]+")
_COUNTERS = re.compile(r"(epoch|iter|iteration|step|i|batch|it)s?$", re.I)
_MEAN, _STD = (
    re.compile(r"(img_?|image_?|data_?)?means?$", re.I),
    re.compile(r"(img_?|image_?|data_?)?std(v|dev)?s?$", re.I),
)


@dataclass
class Checkpoint:
    """The checkpoint of a training script.

    Attributes:
        models: key for ``load(key=…)`` -> model; the key is empty if the file is the model. A model under
            several keys of the table in the file is here under each.
        criterions: key -> criterion.
        vocabulary: token -> number, counted from 1 as in Lua; the first vocabulary of the file, or empty.
        options: options of the training script.
        mean, std: mean and standard deviation of the training data, as tensors or numbers, or None.
        class_names: names of the classes, in the order of the outputs.
        optimizer: key -> state of the optimizer, for :func:`dpnn_bridge.optim.from_lua`.
        losses: key -> values that the training script recorded.
        counters: numbers of epochs, iterations and similar.
        rest: all other entries, as plain data.
    """

    models: dict[str, nn.Module] = field(default_factory=dict)
    criterions: dict[str, nn.Module] = field(default_factory=dict)
    vocabulary: dict[str, int] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    mean: Any = None
    std: Any = None
    class_names: list[str] = field(default_factory=list)
    optimizer: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, Any] = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)
    rest: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        """The main model of the file, which is the first of :attr:`models`.

        Raises:
            ModelNotFoundError: the file contains no model.
        """
        if not self.models:
            raise ModelNotFoundError("the checkpoint contains no model")
        return next(iter(self.models.values()))

    @property
    def tokens(self) -> dict[int, str]:
        """Number, counted from 1 -> token: the inverse of :attr:`vocabulary`."""
        return {number: token for token, number in self.vocabulary.items()}

    def _repr_html_(self) -> str:
        modules = [("model", self.models), ("loss", self.criterions)]
        rows: list[tuple[Any, ...]] = [
            (entry, key, type(module).__name__, sum(p.numel() for p in module.parameters()))
            for entry, entries in modules
            for key, module in entries.items()
        ]
        for name in ("vocabulary", "options", "class_names", "optimizer", "losses", "counters", "rest"):
            if value := getattr(self, name):
                rows.append(
                    (name, ", ".join(map(str, [*value][:6])) + (", …" if len(value) > 6 else ""), "", len(value))
                )
        return table("Checkpoint", ("entry", "key", "class", "#parameters, or count"), rows)

    def __repr__(self) -> str:
        models = ", ".join(f"{k or 'the file'}: {type(m).__name__}" for k, m in self.models.items())
        parts = [f"models {{{models}}}"]
        for name in ("vocabulary", "options", "class_names", "optimizer", "losses", "counters", "rest"):
            if value := getattr(self, name):
                parts.append(f"{name} of {len(value)}")
        parts += [name for name in ("mean", "std") if getattr(self, name) is not None]
        return f"Checkpoint({', '.join(parts)})"


@checks_arguments
@wrap_errors(ConversionError, "loading")
def load_checkpoint(
    path: Origin,
    *,
    plugins: Sequence[StrPath] = (),
    lua: Any = None,
    sandbox: bool | Literal["partial"] = False,
    **options: Unpack[OptionKeywords],
) -> Checkpoint:
    """Load every model of a file and the other entries.

    Args:
        path: a ``.t7`` file, or a ``.pt`` or ``.safetensors`` file that was converted from a ``.t7`` file; also a URL,
            an open file, or bytes. Converted files contain neither optimizer states nor objects of other classes, such
            as dictionaries of words.
        plugins, lua, sandbox: as for :func:`dpnn_bridge.load`.
        **options: fields of :class:`~dpnn_bridge.conversion.options.Options`, such as ``index_base``.

    Raises:
        T7Error: the file cannot be read.
        ConversionError: a model cannot be converted.

    Examples:
        >>> checkpoint = load_checkpoint("lm_lstm_epoch50.t7")     # doctest: +SKIP
        >>> checkpoint.model, checkpoint.tokens[1], checkpoint.options["rnn_size"]   # doctest: +SKIP
    """
    load_plugins(plugins)
    chosen = Options(**{**options, **classes_in_lua(lua, sandbox)})
    with local_file(path) as file:
        contents = read_source(file)
        if contents is None:
            model, report = load_local(file, None, None, chosen)
            models = dict(model.items()) if isinstance(model, Models) else {original_key(report): model}
            checkpoint = Checkpoint(models=models)
            entries = report.metadata.get("checkpoint")
            if isinstance(entries, (dict, list)):
                _store_entries(checkpoint, entries, lambda value: value)
            _from_models(checkpoint)
            return checkpoint
        root, _ = contents
    checkpoint = Checkpoint()
    context = TorchConversion(chosen)
    modules: dict[int, tuple[dict[str, nn.Module], nn.Module]] = {}
    all_models = candidates(root, known_also(chosen.knows))
    if len(affordable(root, all_models)) < len(all_models):
        raise ConversionLimitError(f"{file.name}: {TOO_MANY}")
    for candidate in all_models:
        converted = checkpoint.criterions if candidate.is_criterion else checkpoint.models
        converted[candidate.key] = context.to_torch(candidate.obj)
        modules[id(candidate.obj)] = converted, converted[candidate.key]
    for key, value in root.items() if isinstance(root, LuaTable) else ():
        if id(value) in modules and isinstance(key, (str, int, float)):  # maybe another key of a model
            converted, module = modules[id(value)]
            converted.setdefault(format_path([key]), module)
    context.finish()
    if isinstance(root, (LuaTable, LuaObject)) and id(root) not in modules:
        _store_entries(checkpoint, root, _plain_converter(modules.keys(), _tensor_converter(Budget(root))))
    _from_models(checkpoint)
    return checkpoint


def _tensor_converter(budget: Budget) -> Callable[[LuaTensor | LuaStorage], Any]:
    """Return a function that converts a tensor within a budget for the memory of all tensors."""

    def convert(value: LuaTensor | LuaStorage) -> Any:
        budget.spend(value.size * value.dtype.itemsize, "memory")  # several views may copy the same elements
        return to_value(value)

    return convert


def _plain_converter(modules: Container[int], tensor: Callable[[LuaTensor | LuaStorage], Any]) -> Callable[[Any], Any]:
    """Return a function that converts a Lua value to Python data: objects become dicts, shared values stay shared.

    A list with models or functions becomes a dict of the other elements.

    Args:
        modules: ``id`` of each model; models and functions become None.
        tensor: converts a tensor or storage; called once for each.
    """
    done: dict[int, Any] = {}
    tensor = _once(tensor)

    def is_omitted(value: Any) -> bool:
        return isinstance(value, LuaFunction) or id(value) in modules

    def plain(value: Any) -> Any:
        if is_omitted(value):
            return None
        if isinstance(value, (LuaTensor, LuaStorage)):
            return tensor(value)
        if not isinstance(value, (LuaTable, LuaObject)):
            return to_value(value)
        if id(value) not in done:
            fields = value.fields if isinstance(value, LuaObject) else value
            array = fields.as_list()
            is_list = len(array) == len(fields) > 0 and not any(map(is_omitted, array))  # others would move up
            target: Any = [] if is_list else {}
            done[id(value)] = target
            if isinstance(target, list):
                target.extend(map(plain, array))
            else:
                names = (str, int, float, bool)
                items = ((k, plain(v)) for k, v in dict_items(fields) if isinstance(k, names))
                target.update({k: v for k, v in items if v is not None})
        return done[id(value)]

    return plain


def _store_entries(checkpoint: Checkpoint, table: Mapping[Any, Any] | list[Any], plain: Callable[[Any], Any]) -> None:
    """Store each entry of a checkpoint table in the attribute that its key indicates."""
    if not isinstance(table, Mapping):  # a list of models and options
        table = dict(enumerate(table, 1))
    known: dict[int, dict[str, int] | None] = {}  # many entries may be one table
    are_names, merged = _once(_are_names), set[int]()
    is_first = _once(lambda tokens: tokens == checkpoint.vocabulary)
    for key, raw in table.items():
        name = str(key)
        value = raw if _OPTIMIZER.search(name) and isinstance(raw, (LuaTable, LuaObject)) else plain(raw)
        if value is None or (isinstance(value, (dict, list)) and not value):
            continue
        if _OPTIMIZER.search(name) and isinstance(value, (dict, LuaTable, LuaObject)):
            checkpoint.optimizer[name] = value
        elif (
            _VOCABULARY.match(name)
            and (tokens := _vocabulary_in(value, known))
            and (not checkpoint.vocabulary or is_first(tokens))
        ):
            checkpoint.vocabulary = tokens
        elif _CLASSES.search(name) and not checkpoint.class_names and are_names(value):
            checkpoint.class_names = [*value]
        elif _OPTIONS.search(name) and isinstance(value, dict):
            if id(value) not in merged:
                checkpoint.options.update({str(k): v for k, v in value.items()})
            merged.add(id(value))
        elif _MEAN.match(name) and checkpoint.mean is None:
            checkpoint.mean = value
        elif _STD.match(name) and checkpoint.std is None:
            checkpoint.std = value
        elif _LOSSES.search(name):
            checkpoint.losses[name] = value
        elif _COUNTERS.match(name) and isinstance(value, (int, float)) and not isinstance(value, bool):
            checkpoint.counters[name] = value
        elif (
            isinstance(value, dict)
            and {"mean", "std"} <= value.keys()
            and checkpoint.mean is None
            and checkpoint.std is None
        ):
            checkpoint.mean, checkpoint.std = value["mean"], value["std"]
            if others := {k: v for k, v in value.items() if k not in ("mean", "std")}:
                checkpoint.rest[name] = others
        else:
            checkpoint.rest[name] = value


def _are_names(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def vocabulary_of(value: Any) -> dict[str, int] | None:
    """Return token -> number, from a table token -> number, a table number -> token, or a list of tokens.

    For a list of several vocabularies, such as words and characters, the first one is returned; None for other values.
    """
    return _vocabulary_in(value, {})


def _vocabulary_in(value: Any, known: dict[int, dict[str, int] | None]) -> dict[str, int] | None:
    """Return the vocabulary in a table or nested table, or None. Each table is searched once, see ``known``."""
    if id(value) not in known:
        known[id(value)] = None  # for a table that contains itself
        known[id(value)] = _search_vocabulary(value, known)
    return known[id(value)]


def _search_vocabulary(value: Any, known: dict[int, dict[str, int] | None]) -> dict[str, int] | None:
    if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        return {token: i for i, token in enumerate(value, 1)}
    if isinstance(value, list) and value and all(isinstance(v, (dict, list)) for v in value):
        return _vocabulary_in(value[0], known)
    if (
        not isinstance(value, dict)
        or not value
        or isinstance(next(iter(value.values())), (Tensor, LuaTensor, LuaStorage))
    ):
        return None
    if all(type(v) is int for v in value.values()):  # not booleans
        return {str(k): v for k, v in value.items()}
    if all(isinstance(v, str) for v in value.values()) and all(_INTEGER.fullmatch(str(k)) for k in value):
        return {v: int(k) for k, v in value.items()}
    for name, inner in value.items():  # {word_to_idx = …, idx_to_word = …}
        is_vocabulary = isinstance(inner, (dict, list)) and _VOCABULARY.match(str(name))
        if is_vocabulary and (tokens := _vocabulary_in(inner, known)):
            return tokens
    return None


def _once(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that calls ``function`` once for each object; the caller keeps the objects."""
    results: dict[int, Any] = {}

    def result(value: Any) -> Any:
        if id(value) not in results:
            results[id(value)] = function(value)
        return results[id(value)]

    return result


def _from_models(checkpoint: Checkpoint) -> None:
    """Add vocabulary and class names that modules store in their fields, unless the table has them."""
    known: dict[int, dict[str, int] | None] = {}  # many modules may share a table
    are_names, fields = _once(_are_names), list[tuple[str, Any]]()
    for module in (module for model in checkpoint.models.values() for module in model.modules()):
        record = record_of(module)
        items = record.fields.items() if record else ()
        fields += [(k, v) for k, v in items if isinstance(k, str) and (_VOCABULARY.match(k) or _CLASSES.search(k))]
        values = (getattr(module, name, None) for name in ("idx_to_token", "token_to_idx", "vocab"))
        fields += [("vocab", value) for value in values if isinstance(value, (dict, list))]
    plain = _plain_converter(set(), lambda tensor: tensor)  # tensors are neither tokens nor names
    for name, value in fields:
        if _VOCABULARY.match(name) and not checkpoint.vocabulary:
            checkpoint.vocabulary = _vocabulary_in(plain(value), known) or {}
        elif _CLASSES.search(name) and not checkpoint.class_names and are_names(names := plain(value)):
            checkpoint.class_names = names
