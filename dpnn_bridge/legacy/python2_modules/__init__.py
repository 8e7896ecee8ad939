"""Modules of the standard library that compute something else in Python 2. Translated files import them."""
