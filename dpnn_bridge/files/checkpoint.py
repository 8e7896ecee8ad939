"""Load a whole checkpoint as one object: its models and the other entries of a training script."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from torch import Tensor, nn
from typing_extensions import Unpack

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.graph import dict_items
from dpnn_bridge.base.notebook import table
from dpnn_bridge.checkpoints.find import TOO_MANY, affordable, candidates, known_also
from dpnn_bridge.conversion.budget import Budget
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.conversion.options import OptionKeywords, Options
from dpnn_bridge.conversion.torch_context import TorchConversion
from dpnn_bridge.errors import ConversionError, ConversionLimitError, ModelNotFoundError
from dpnn_bridge.files import load_local
from dpnn_bridge.legacy.pickles import read_source
from dpnn_bridge.loaders.origin import Origin, local_file
from dpnn_bridge.modules.several import Models
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

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
        models: key, as ``load(key=…)`` takes it -> model; the key is empty when the file is the model.
        criterions: the same for criterions.
        vocabulary: token -> number, counted from 1 as in Lua, the first in the file; empty when the file has none.
        options: options of the training script.
        mean, std: of the training data, as tensors or numbers; None when the file has none.
        class_names: names of the classes, in the order of the outputs.
        optimizer: key -> state of the optimizer, for :func:`dpnn_bridge.optim.from_lua`.
        losses: key -> what was recorded in training.
        counters: epoch, iteration and the like.
        rest: everything else beside the models, as plain data.
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
        """The model that the file is about, the first of :attr:`models`.

        Raises:
            ModelNotFoundError: the file contains none.
        """
        if not self.models:
            raise ModelNotFoundError("the checkpoint holds no model")
        return next(iter(self.models.values()))

    @property
    def tokens(self) -> dict[int, str]:
        """Number, counted from 1 -> token: the reverse of :attr:`vocabulary`."""
        return {number: token for token, number in self.vocabulary.items()}

    def _repr_html_(self) -> str:
        found = [("model", k, m) for k, m in self.models.items()] + [("loss", k, m) for k, m in self.criterions.items()]
        rows: list[tuple[Any, ...]] = [
            (kind, key, type(m).__name__, sum(p.numel() for p in m.parameters())) for kind, key, m in found
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
def load_checkpoint(path: Origin, **options: Unpack[OptionKeywords]) -> Checkpoint:
    """Load every model of a file and the other entries.

    Args:
        path: a ``.t7`` file, or a ``.pt`` or ``.safetensors`` file that was converted from one (optimizer states are
            only in the former); also a URL, an open file, or bytes.
        **options: fields of :class:`~dpnn_bridge.conversion.options.Options`, such as ``index_base``.

    Raises:
        T7Error: the file cannot be read.
        ConversionError: a model cannot be converted.

    Examples:
        >>> checkpoint = load_checkpoint("lm_lstm_epoch50.t7")     # doctest: +SKIP
        >>> checkpoint.model, checkpoint.tokens[1], checkpoint.options["rnn_size"]   # doctest: +SKIP
    """
    chosen = Options(**options)
    with local_file(path) as file:
        contents = read_source(file)
        if contents is None:
            model, report = load_local(file, None, None, chosen)
            key = (report.metadata or {}).get("key") or ""
            found = Checkpoint(models=dict(model.items()) if isinstance(model, Models) else {key: model})
            beside = (report.metadata or {}).get("checkpoint")
            if isinstance(beside, (dict, list)):
                _sort(found, beside, lambda value: value)
            _from_models(found)
            return found
        root, _ = contents
    found = Checkpoint()
    context = TorchConversion(chosen)
    modules: set[int] = set()
    all_models = candidates(root, known_also(chosen.knows))
    if len(affordable(root, all_models)) < len(all_models):
        raise ConversionLimitError(f"{file.name}: {TOO_MANY}")
    for candidate in all_models:
        kind = found.criterions if candidate.is_criterion else found.models
        kind[candidate.key] = context.to_torch(candidate.obj)
        modules.add(id(candidate.obj))
    context.finish()
    if isinstance(root, (LuaTable, LuaObject)) and id(root) not in modules:
        _sort(found, root, _plainly(modules, Budget(root)))
    _from_models(found)
    return found


def _plainly(modules: set[int], budget: Budget) -> Callable[[Any], Any]:
    """Return a function to plain data, without models and functions; objects become dicts, sharing is kept."""
    done: dict[int, Any] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, LuaFunction) or id(value) in modules:
            return None
        if not isinstance(value, (LuaTable, LuaObject)):
            if isinstance(value, (LuaTensor, LuaStorage)):
                budget.spend(value.size * value.dtype.itemsize, "memory")  # views may repeat elements of the file
            return to_value(value)
        if id(value) not in done:
            fields = value.fields if isinstance(value, LuaObject) else value
            array = fields.as_list()
            target: Any = [] if len(array) == len(fields) and array else {}
            done[id(value)] = target
            if isinstance(target, list):
                target.extend(v for v in map(plain, array) if v is not None)
            else:
                names = (str, int, float, bool)
                items = ((k, plain(v)) for k, v in dict_items(fields) if isinstance(k, names))
                target.update({k: v for k, v in items if v is not None})
        return done[id(value)]

    return plain


def _sort(found: Checkpoint, table: Mapping[Any, Any] | list[Any], plain: Callable[[Any], Any]) -> None:
    """Put each entry of a checkpoint table where it belongs."""
    if not isinstance(table, Mapping):  # a list of models and options
        table = dict(enumerate(table, 1))
    for key, raw in table.items():
        name = str(key)
        value = raw if _OPTIMIZER.search(name) and isinstance(raw, (LuaTable, LuaObject)) else plain(raw)
        if value is None or (isinstance(value, (dict, list)) and not value):
            continue
        if _OPTIMIZER.search(name) and isinstance(value, (dict, LuaTable, LuaObject)):
            found.optimizer[name] = value
        elif _VOCABULARY.match(name) and (tokens := vocabulary_of(value)) and found.vocabulary in ({}, tokens):
            found.vocabulary = tokens
        elif _CLASSES.search(name) and not found.class_names and _are_names(value):
            found.class_names = value
        elif _OPTIONS.search(name) and isinstance(value, dict):
            found.options.update({str(k): v for k, v in value.items()})
        elif _MEAN.match(name) and found.mean is None:
            found.mean = value
        elif _STD.match(name) and found.std is None:
            found.std = value
        elif _LOSSES.search(name):
            found.losses[name] = value
        elif _COUNTERS.match(name) and isinstance(value, (int, float)):
            found.counters[name] = value
        elif isinstance(value, dict) and {"mean", "std"} <= value.keys() and found.mean is None and found.std is None:
            found.mean, found.std = value["mean"], value["std"]
            if others := {k: v for k, v in value.items() if k not in ("mean", "std")}:
                found.rest[name] = others
        else:
            found.rest[name] = value


def _are_names(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def vocabulary_of(value: Any) -> dict[str, int] | None:
    """Return token -> number from a table in either direction, or a list of tokens; None for other tables.

    Of several in one list, such as words and characters, the first.
    """
    return _vocabulary_in(value, set())


def _vocabulary_in(value: Any, searched: set[int]) -> dict[str, int] | None:
    """Return the vocabulary that a table is or contains. Each table is searched once."""
    if id(value) in searched:
        return None
    searched.add(id(value))
    if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        return {token: i for i, token in enumerate(value, 1)}
    if isinstance(value, list) and value and all(isinstance(v, (dict, list)) for v in value):
        return _vocabulary_in(value[0], searched)
    if not isinstance(value, dict) or not value or isinstance(next(iter(value.values())), Tensor):
        return None
    if all(isinstance(v, int) for v in value.values()):
        return {str(k): v for k, v in value.items()}
    if all(isinstance(v, str) for v in value.values()) and all(_INTEGER.fullmatch(str(k)) for k in value):
        return {v: int(k) for k, v in value.items()}
    for name, inner in value.items():  # {word_to_idx = …, idx_to_word = …}
        named = isinstance(inner, (dict, list)) and _VOCABULARY.match(str(name))
        if named and (tokens := _vocabulary_in(inner, searched)):
            return tokens
    return None


def _once(look: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that looks into the plain data of a value; into that of a table which modules share once."""
    results: dict[int, Any] = {}

    def result(value: Any) -> Any:
        if id(value) not in results:
            results[id(value)] = look(_plainly(set(), Budget(value))(value))
        return results[id(value)]

    return result


def _from_models(found: Checkpoint) -> None:
    """Take over the data that models store: the vocabulary of a language model, the mean of its data."""
    vocabulary, names_in = (
        _once(lambda plain: vocabulary_of(plain) or {}),
        _once(lambda plain: _are_names(plain) and plain),
    )
    for model in found.models.values():
        for module in model.modules():
            record = record_of(module)
            for name, value in record.fields.items() if record else ():
                if not isinstance(name, str):
                    continue
                if _VOCABULARY.match(name) and not found.vocabulary:
                    found.vocabulary = vocabulary(value)
                elif _CLASSES.search(name) and not found.class_names:
                    found.class_names = names_in(value) or []
            for name in ("idx_to_token", "token_to_idx", "vocab"):
                value = getattr(module, name, None)
                if not found.vocabulary and isinstance(value, (dict, list)):
                    found.vocabulary = vocabulary_of(value) or {}
