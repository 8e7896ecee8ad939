"""Check that the attributes of a class mapping are hooks, and accept the earlier names of hooks."""

from __future__ import annotations

import difflib
import inspect
import warnings
from typing import Any

#: name of a hook until November 2026 -> current name
RENAMED = {
    "passed": "tensor_args",
    "fixed": "constant_kwargs",
    "derived": "computed_fields",
    "only_from_files": "import_only",
    "passes_through": "is_identity",
    "trains_unasked": "default_training",
    "in_file": "serialize",
}

#: hooks that map Lua fields to attributes; in a tuple of names, each field and its attribute have the same name
_FIELD_HOOKS = ("tensors", "scalars", "members")


class _Renamed:
    """A class attribute that returns a hook by its earlier name."""

    def __init__(self, old: str) -> None:
        self.old = old

    def __get__(self, instance: Any, owner: type) -> Any:
        new = RENAMED[self.old]
        # a class that declares the earlier name has both names; `super().in_file(obj)` in it means its base classes
        defining = next((c for c in owner.__mro__ if new in vars(c) and vars(c).get(self.old, self) is self), None)
        if defining is None:
            raise AttributeError(self.old)
        value = vars(defining)[new]
        return value.__get__(None, owner) if hasattr(value, "__get__") else value


class Hooks:
    """Base of :class:`~dpnn_bridge.conversion.lua_class.LuaClass`, whose attributes and methods are the hooks."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse unknown attributes, which are probably misspelled hooks.

        Other attributes must be annotated or begin with an underscore. Other methods must not have a name similar to
        a hook's.

        Raises:
            TypeError: an attribute is unknown or has the wrong type; for an unknown attribute, the message has the name
                of the most similar hook.
        """
        super().__init_subclass__(**kwargs)
        if Hooks in cls.__bases__:
            return  # the class that defines the hooks
        for old in RENAMED.keys() & vars(cls).keys():
            text = f"{cls.__module__}.{cls.__qualname__}: {old!r} of LuaClass is now called {RENAMED[old]!r}"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            setattr(cls, RENAMED[old], vars(cls)[old])
        cls._refuse_unknown()
        cls._check_types()
        for hook in _FIELD_HOOKS:
            names = cls.__dict__.get(hook)
            if isinstance(names, tuple):
                setattr(cls, hook, {name: name for name in names})

    @classmethod
    def _check_types(cls) -> None:
        defining = next(c for c in cls.__mro__ if Hooks in c.__bases__)
        lineage = cls.__mro__[: cls.__mro__.index(defining)]
        own = {name for c in lineage for name in inspect.get_annotations(c)}
        for name, value in vars(cls).items():
            default = None if name in own else vars(defining).get(name)
            types = {type(default), *((dict, tuple) if name in _FIELD_HOOKS else ())}
            is_data = isinstance(default, (dict, tuple, bool, int, str)) and not name.startswith("_")
            if is_data and not isinstance(value, tuple(types)) and not hasattr(value, "__get__"):
                expected = " or ".join(sorted(t.__name__ for t in types))
                raise TypeError(f"{cls.__module__}.{cls.__qualname__}: {name} is {value!r:.80}; expected a {expected}")

    @classmethod
    def _refuse_unknown(cls) -> None:
        own = inspect.get_annotations(cls)
        defining = next(c for c in cls.__mro__ if Hooks in c.__bases__)
        known = [hook for hook in dir(defining) if not hook.startswith("_") and hook not in RENAMED]
        for name, value in vars(cls).items():
            inherited = [getattr(base, name) for base in cls.__bases__ if hasattr(base, name)]
            is_method = hasattr(value, "__get__")
            if name.startswith("_") or name in own or (inherited and inspect.isroutine(inherited[0]) <= is_method):
                continue
            hooks = {_letters(hook): hook for hook in known if hook != name}
            near = difflib.get_close_matches(_letters(name), hooks, n=1, cutoff=0.8 if is_method else 0.4)
            if near or not is_method:
                advice = f"did you mean {hooks[near[0]]!r}?" if near else f"the hooks are {', '.join(hooks.values())}."
                raise TypeError(
                    f"{cls.__module__}.{cls.__qualname__}: LuaClass has no attribute {name!r}; {advice} "
                    f"If it is your own attribute, annotate it: {name}: ClassVar[...] = ..."
                )


for _old in RENAMED:
    setattr(Hooks, _old, _Renamed(_old))


def _letters(name: str) -> str:
    return name.replace("_", "").lower()
