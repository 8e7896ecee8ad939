-- lfs: LuaFileSystem with Python's os; also a global, as in its C library.
local bridge, py = ...
lfs = {_VERSION = 'LuaFileSystem of dpnn_bridge'}
for name, f in pairs(py.lfs) do lfs[name] = bridge.plain(f) end
lfs.listing = nil

function lfs.dir(folder)
   local names, i = py.lfs.listing(folder), 0
   if type(names) == 'string' then error(names, 2) end
   local listing = {}
   function listing.next() i = i + 1; return names[i] end
   function listing.close() names = {} end
   return listing.next, listing
end
return lfs
