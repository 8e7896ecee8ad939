"""Bytes <-> Lua values. Knows nothing of modules."""
