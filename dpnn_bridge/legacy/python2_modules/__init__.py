"""Modules of the standard library that compute something else in Python 2. Translated files import them.

``__all__`` has the names that Python 2.7's modules have, so that ``import *`` replaces no other name of a file.
"""
