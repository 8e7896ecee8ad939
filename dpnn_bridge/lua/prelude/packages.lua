-- Small stand-ins for LuaRocks packages that nn, dpnn and rnn require, used when package.path has no real ones.
local bridge, py = ...
local packages = {}
bridge.packages = packages

-- moses: the part that these packages use
function packages.moses()
   local _ = {}
   function _.map(t, f)
      local result = {}
      for k, v in pairs(t) do result[k] = f(k, v) end
      return result
   end
   function _.clone(t, shallow)
      local result = {}
      for k, v in pairs(t) do result[k] = type(v) == 'table' and not shallow and _.clone(v) or v end
      return result
   end
   function _.size(...)
      local t = ...
      if type(t) ~= 'table' then return select('#', ...) end
      local n = 0
      for _ in pairs(t) do n = n + 1 end
      return n
   end
   function _.keys(t)
      local result = {}
      for k in pairs(t) do result[#result + 1] = k end
      return result
   end
   function _.values(t)
      local result = {}
      for _, v in pairs(t) do result[#result + 1] = v end
      return result
   end
   function _.slice(t, first, last)
      local result = {}
      for i = first or 1, math.min(last or #t, #t) do result[#result + 1] = t[i] end
      return result
   end
   function _.first(t, n) return _.slice(t, 1, n or 1) end
   function _.last(t, n) return _.slice(t, math.max(1, #t - (n or #t - 1) + 1)) end
   function _.reverse(t)
      local result = {}
      for i = #t, 1, -1 do result[#result + 1] = t[i] end
      return result
   end
   function _.compact(t)
      local keys, result = {}, {}
      for k, v in pairs(t) do if v then keys[#keys + 1] = k end end
      table.sort(keys)
      for i, k in ipairs(keys) do result[i] = t[k] end
      return result
   end
   function _.indexOf(t, value)
      for i, v in ipairs(t) do if v == value then return i end end
   end
   function _.contains(t, value)
      for _, v in pairs(t) do if v == value then return true end end
      return false
   end
   function _.isEmpty(t)
      if t == nil then return true end
      if type(t) == 'string' then return #t == 0 end
      return type(t) ~= 'table' or next(t) == nil
   end
   function _.isNaN(x) return type(x) == 'number' and x ~= x end
   function _.isFinite(x) return type(x) == 'number' and x > -math.huge and x < math.huge end
   return _
end

-- xlua: named arguments; progress bars become silence
function packages.xlua()
   xlua = {progress = function() end, log = function() end}

   -- arguments in order, or one table of named ones, as the definitions {arg=, type=, default=, req=} say
   local function read(args, name, definitions)
      local values, named = {}, #args <= 1 and type(args[1]) == 'table' and not torch.typename(args[1]) and args[1]
      for i, definition in ipairs(definitions) do
         local value
         if named then value = named[definition.arg] else value = args[i] end
         if value == nil then value = definition.default end
         if value == nil and definition.defaulta then value = values[definition.defaulta] end
         if value == nil and definition.req then error(name .. ': missing argument ' .. definition.arg, 3) end
         values[definition.arg] = value
      end
      return values
   end
   function xlua.unpack(args, name, description, ...)
      local definitions = {...}
      local values, ordered = read(args, name, definitions), {}
      for i, definition in ipairs(definitions) do ordered[i] = values[definition.arg] end
      return values, unpack(ordered, 1, #definitions)
   end
   function xlua.unpack_class(object, args, name, description, ...)
      for key, value in pairs(read(args, name, {...})) do object[key] = value end
   end
   return xlua
end

-- nn: its base classes, see nn/base.lua
function packages.nn()
   py.run_prelude('nn/base.lua')
   return nn
end

local searchers = package.loaders or package.searchers
searchers[#searchers + 1] = function(name)
   return packages[name] or "\n\tno stand-in for '" .. name .. "' in the bridge"
end
