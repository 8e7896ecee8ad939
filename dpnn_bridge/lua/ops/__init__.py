"""Implement the functions and methods of the ``torch`` package. Importing this package registers all of them."""

import importlib
import pkgutil

for _area in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_area.name}")
