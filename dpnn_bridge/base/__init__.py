"""Provide utilities for all subpackages: errors, escaping of text, atomic files, paths in a graph."""
