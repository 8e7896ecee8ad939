-- Runs last: what Python calls to read, write and build Lua values.
local bridge, py = ...
local handle, wrap, argument = bridge.handle, bridge.wrap, bridge.argument

function bridge.pack(...) return select('#', ...), {...} end
function bridge.class_of(value) return bridge.typename(value) end
_ = {handle, wrap, argument, py}
