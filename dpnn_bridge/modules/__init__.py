"""Contain one file per family of Lua classes. The registry imports all of them."""
