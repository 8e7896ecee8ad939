"""One file per family of Lua classes; the registry imports them all by itself."""
