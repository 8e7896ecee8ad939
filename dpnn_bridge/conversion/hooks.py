"""Hooks of class mappings: check that a declared attribute is one, and accept the names that hooks had before."""

from __future__ import annotations

import difflib
import inspect
import warnings
from typing import Any

#: name until November 2026 -> name
RENAMED = {
    "passed": "tensor_args",
    "fixed": "constant_kwargs",
    "derived": "computed_fields",
    "only_from_files": "import_only",
    "passes_through": "is_identity",
    "trains_unasked": "default_training",
    "in_file": "serialize",
}


#: hooks that may be a tuple of names, which are the same in Lua and in the module
_NAMES = ("tensors", "scalars", "members")


class _Renamed:
    """Access to a hook by its earlier name."""

    def __init__(self, old: str) -> None:
        self.old = old

    def __get__(self, instance: Any, owner: type) -> Any:
        new = RENAMED[self.old]
        # a class that declares the earlier name has both; `super().in_file(obj)` in it asks for that of its bases
        home = next((c for c in owner.__mro__ if new in vars(c) and vars(c).get(self.old, self) is self), None)
        if home is None:
            raise AttributeError(self.old)
        return vars(home)[new].__get__(None, owner) if hasattr(vars(home)[new], "__get__") else vars(home)[new]


class Hooks:
    """Base of :class:`~dpnn_bridge.conversion.lua_class.LuaClass`, whose attributes and methods are the hooks."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse an attribute that is no hook, which nothing would read: most likely a misspelled one.

        A mapping may have attributes of its own if they are annotated or begin with an underscore, and methods whose
        names do not resemble a hook's.

        Raises:
            TypeError: names the attribute and the most similar hook.
        """
        super().__init_subclass__(**kwargs)
        if Hooks in cls.__bases__:
            return  # the class that defines the hooks
        for old in RENAMED.keys() & vars(cls).keys():
            text = f"{cls.__module__}.{cls.__qualname__}: {old!r} of LuaClass is called {RENAMED[old]!r} now"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            setattr(cls, RENAMED[old], vars(cls)[old])
        cls._refuse_unknown()
        cls._check_types()
        for hook in _NAMES:
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
            kinds = {type(default), *((dict, tuple) if name in _NAMES else ())}
            plain = isinstance(default, (dict, tuple, bool, int, str)) and not name.startswith("_")
            if plain and not isinstance(value, tuple(kinds)) and not hasattr(value, "__get__"):
                expected = " or ".join(sorted(kind.__name__ for kind in kinds))
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
                    f"Annotate an attribute of your own: {name}: ClassVar[...] = ..."
                )


for _old in RENAMED:
    setattr(Hooks, _old, _Renamed(_old))


def _letters(name: str) -> str:
    return name.replace("_", "").lower()
