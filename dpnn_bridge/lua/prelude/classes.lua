-- torch.class, metatables, constructors, operators and type names.
local bridge = ...
local rawgetmt, rawsetmt = bridge.getmetatable, bridge.setmetatable
local select, type, rawget, rawset, rawequal, error, ipairs = select, type, rawget, rawset, rawequal, error, ipairs

torch = torch or {}
package.loaded.torch = torch

local metatables = {}  -- class name -> metatable
local names = {}       -- metatable -> class name
bridge.metatables, bridge.names = metatables, names

-- class name -> chunk that defined the class, without the bridge's own classes
local sources, getinfo = {}, bridge.debug.getinfo
-- base classes of all classes; replacing a method of a base class does not count as defining a class
local roots = {['nn.Module'] = true, ['nn.Container'] = true, ['nn.Criterion'] = true}
bridge.inherited = {}  -- class of the bridge -> {parent = base class in Torch7, [name of an inherited method] = true}
bridge.settings = {training = true, evaluate = true, parameters = true}  -- methods that all these classes inherit
-- the user's chunk that defined a method of a class, or replaced the method that the class inherits
local function source_of(tname, name)
   local class = metatables[tname]
   while class and rawget(class, name) == nil and not roots[names[rawgetmt(class)]] do class = rawgetmt(class) end
   local method = class and rawget(class, name)
   local source = type(method) == 'function' and getinfo(method, 'S').source
   if source and not source:match('^=dpnn_bridge/') then return source end
   local inherited = bridge.inherited[tname]
   source = inherited and (inherited[name] or bridge.settings[name]) and source_of(inherited.parent, name)
   if source then bridge.define_converted(tname) end
   return source
end
-- the chunks, except those of the bridge, that define a class and the methods that a model calls, or one method
function bridge.sources_of(tname, method)
   if method then return {source_of(tname, method) or nil} end
   local result = {sources[tname]}
   for _, name in ipairs {
      'updateOutput', 'updateGradInput', 'accGradParameters', 'forward', 'backward', 'training', 'evaluate', 'parameters',
   } do
      result[#result + 1] = source_of(tname, name) or nil
   end
   return result
end
local function record_source(tname)
   local level, info = 3, nil
   repeat
      info, level = getinfo(level, 'S'), level + 1
   until not info or info.what ~= 'C' and not info.source:match('^=dpnn_bridge/classes')
   if info and not info.source:match('^=dpnn_bridge/') then sources[tname] = info.source end
end

local class_of_ctype = {}  -- number of a C type -> class name
local function ctype_of(object) return tonumber(bridge.ffi.typeof(object)) end

local function typename(object)
   local mt = rawgetmt(object)
   local name = mt and names[mt]
   if name == nil and type(object) == 'cdata' then return class_of_ctype[ctype_of(object)] end
   return name
end
bridge.typename = typename

-- look up a key in a class and its base classes
local function inherited(mt, key)
   while mt do
      local value = rawget(mt, key)
      if value ~= nil then return value end
      local parent = rawgetmt(mt)
      if parent and not names[parent] then return mt[key] end
      mt = parent
   end
end

local function index(self, key)
   local mt = rawgetmt(self)
   local hook = inherited(mt, '__index__')
   if hook then
      local value, found = hook(self, key)
      if found then return value end
   end
   return inherited(mt, key)
end

local function newindex(self, key, value)
   local hook = inherited(rawgetmt(self), '__newindex__')
   if hook and hook(self, key, value) then return end
   if type(self) ~= 'table' then
      error('the class ' .. tostring(typename(self)) .. ' cannot be indexed', 2)
   end
   rawset(self, key, value)
end

-- binary operators use the metatable of the first operand, or of the second if the first has none
local function binary(op, what)
   local key = '__' .. op .. '__'
   return function(a, b)
      local mt = rawgetmt(a) or rawgetmt(b)
      local f = mt and mt[key]
      if f == nil then
         error(string.format('both %s and %s have no %s operator', typename(a) or '(null)', typename(b) or '(null)', what), 2)
      end
      if type(f) == 'function' then return f(a, b) end
   end
end

-- avoids a tail call, which would remove the caller's stack frame: nngraph counts stack frames
local function results(...) return ... end

local function unary(op, what)
   local key = '__' .. op .. '__'
   return function(self, ...)
      local f = inherited(rawgetmt(self), key)
      if f == nil then error(string.format('%s has no %s operator', typename(self), what), 2) end
      if type(f) == 'function' then return results(f(self, ...)) end
      return f
   end
end

local function isequal(a, b)
   if type(a) == 'userdata' and type(b) == 'userdata' then return bridge.same(a, b) end
   return type(a) == 'table' and type(b) == 'table' and rawequal(a, b)
end

local operators = {
   __index = index, __newindex = newindex,
   __add = binary('add', 'addition'), __sub = binary('sub', 'substraction'), __mul = binary('mul', 'multiplication'),
   __div = binary('div', 'division'), __mod = binary('mod', 'modulo'), __pow = binary('pow', 'power'),
   __concat = binary('concat', 'concat'), __lt = binary('lt', 'less-than'), __le = binary('le', 'less-equal'),
   __unm = unary('unm', 'negation'), __len = unary('len', 'length'), __call = unary('call', 'call'),
}
function operators.__eq(a, b)
   local f = inherited(rawgetmt(a), '__eq__')
   if type(f) == 'function' then return f(a, b) end
   return isequal(a, b)
end
function operators.__tostring(self)
   local f = inherited(rawgetmt(self), '__tostring__')
   if type(f) == 'function' then return f(self) end
   return f or typename(self)
end

-- the table that contains the last part of a dotted name
local function container(tname)
   local at = _G
   for part in tname:gmatch('([^%.]+)%.') do
      at = type(at) == 'table' and at[part]
      if type(at) ~= 'table' then
         error(string.format('while creating metatable %s: bad argument #1 (%s is an invalid module name)', tname, part), 3)
      end
   end
   return at
end

local function new_metatable(tname)
   local mt = {__typename = tname, __version = 1}
   for key, f in pairs(operators) do mt[key] = f end
   mt.__metatable = mt
   metatables[tname], names[mt] = mt, tname
   record_source(tname)
   if bridge.open then  -- where C libraries look up classes
      local registry = bridge.debug.getregistry()
      registry[tname], registry[mt] = mt, tname
   end
   return mt
end

local function new_constructor(mt)
   return rawsetmt({}, {
      __index = mt,
      __newindex = function(_, key, value) rawset(mt, key, value) end,
      __call = function(self, ...)
         local new = rawget(rawgetmt(self), '__new')
         if not new then error('no constructor available', 2) end
         return results(new(...))
      end,
      __metatable = mt,
   })
end

local function check(n, value, expected, what)
   local actual = type(value)
   if actual ~= expected then
      error(('bad argument #%d (%s)'):format(n, what or expected .. ' expected, got ' .. actual), 3)
   end
   return value
end

function torch.newmetatable(tname, parent, constructor, destructor, factory, module)
   check(1, tname, 'string')
   check(2, parent or '', 'string', 'parent class name or nil expected')
   check(3, constructor or error, 'function', 'constructor function or nil expected')
   check(4, destructor or error, 'function', 'destructor function or nil expected')
   check(5, factory or error, 'function', 'factory function or nil expected')
   check(6, module or names, 'table', 'module table or nil expected')
   module = module or container(tname)
   local mt = metatables[tname] or new_metatable(tname)
   if parent then
      if rawgetmt(mt) then error('class ' .. tname .. ' has been already assigned a parent class\n', 2) end
      if not (metatables[parent] or bridge.find_class(parent)) then error('bad argument #2 (invalid parent class name ' .. tostring(parent) .. ')', 2) end
      rawsetmt(mt, metatables[parent])
   end
   if destructor then
      if rawget(mt, '__gc') then error(tname .. ' has been already assigned a destructor', 2) end
      rawset(mt, '__gc', destructor)
   end
   if factory then
      if rawget(mt, '__factory') then error(tname .. ' has been already assigned a factory', 2) end
      rawset(mt, '__factory', factory)
   end
   if not rawget(mt, '__constructor') then rawset(mt, '__constructor', new_constructor(mt)) end
   if constructor then
      local fancy = rawgetmt(rawget(mt, '__constructor'))
      if rawget(fancy, '__new') then error(tname .. ' has been already assigned a constructor', 2) end
      rawset(fancy, '__new', constructor)
      rawset(mt, 'new', constructor)
   end
   module[tname:match('([^%.]+)$')] = rawget(mt, '__constructor')
   return mt
end

function torch.class(...)
   local tname, second, third = ...
   local n = select('#', ...)
   local parent, module
   local ok = type(tname) == 'string'
   if n == 1 then
   elseif n == 2 and type(second) == 'string' then parent = second
   elseif n == 2 and type(second) == 'table' then module = second
   elseif n == 3 and type(second) == 'string' and type(third) == 'table' then parent, module = second, third
   else ok = false end
   if not ok then error('<class name> [<parent class name>] [<module table>] expected', 2) end

   local function factory()
      local self = {}
      torch.setmetatable(self, tname)
      return self
   end
   local function constructor(...)
      local self = factory()
      if self.__init then self:__init(...) end
      return self
   end
   local mt = torch.newmetatable(tname, parent, constructor, nil, factory, module)
   return mt, parent and torch.getmetatable(parent) or nil
end

function torch.getmetatable(tname) return metatables[check(1, tname, 'string')] end
function torch.factory(tname) local mt = metatables[check(1, tname, 'string')]; return mt and rawget(mt, '__factory') end
function torch.getconstructortable(tname) local mt = metatables[check(1, tname, 'string')]; return mt and rawget(mt, '__constructor') end

function torch.setmetatable(object, tname)
   check(2, tname, 'string')
   check(1, object, 'table')
   if not metatables[tname] then error('unknown typename ' .. tname, 2) end
   rawsetmt(object, metatables[tname])
   return tname
end

function torch.metatype(...)
   local tname, mt, ctype = ...
   local n = select('#', ...)
   if n ~= 2 and n ~= 3 then error('expecting: string table [ctype]', 2) end
   check(1, tname, 'string')
   check(2, mt, 'table')
   if n == 3 then
      if not bridge.ffi then error('could not register cdata type -- missing ffi library?', 2) end
      class_of_ctype[ctype_of(ctype)] = tname
   end
   metatables[tname], names[mt] = mt, tname
end

function torch.typename(...)
   if select('#', ...) == 0 then error('bad argument #1 (value expected)', 2) end
   return typename((...))
end

function torch.type(object) return typename(object) or type(object) end

function torch.version(...)
   if select('#', ...) == 0 then error('bad argument #1 (value expected)', 2) end
   local object = ...
   local mt = type(object) == 'cdata' and metatables[typename(object)] or rawgetmt(object)
   if type(mt) == 'table' then return rawget(mt, '__version') end
end

-- the version of an object's fields: the version in the file for a class with a mapping, else that of the class
local versions = setmetatable({}, {__mode = 'k'})
function bridge.set_version(object, version) versions[object] = version end
function bridge.version(object) return versions[object] or torch.version(object) end

function torch.isTypeOf(object, spec)
   if type(spec) ~= 'string' then
      spec = getmetatable(spec).__typename
      if type(spec) ~= 'string' then error('type must be provided as [regexp] string, or factory', 2) end
   end
   local mt = getmetatable(object)  -- the metatable of a class is that of its objects
   while type(mt) == 'table' do
      local tname = mt.__typename
      local match = tname and tname:match(spec)
      if match and (match ~= spec or match == tname) then return true end
      mt = getmetatable(mt)
   end
   return false
end

function torch.isequal(a, b) return isequal(a, b) end

function torch.pointer(object)
   local lua_type = type(object)
   if object == nil or lua_type == 'boolean' then error('Torch object, table, thread, cdata or function expected', 2) end
   if lua_type == 'number' then return object end
   if lua_type == 'userdata' and not typename(object) then error('bad argument #1 (Torch object expected)', 2) end
   return bridge.pointer(object)
end

function torch.pushudata() error('torch.pushudata: the bridge cannot convert C pointers to objects', 2) end

-- Lua environments of userdata and functions, as torch.setenv of Torch7; in a sandbox, those of functions cannot be changed
local environments = setmetatable({}, {__mode = 'k'})
local function check_owner(object)
   if type(object) ~= 'function' and type(object) ~= 'userdata' then
      error('bad argument #1 (function or userdata expected, got ' .. type(object) .. ')', 3)
   end
   return bridge.open and type(object) == 'function'
end
local getfenv, setfenv = getfenv, setfenv
function torch.getenv(object)
   if check_owner(object) then return getfenv(object) end
   return environments[object] or _G
end
function torch.setenv(object, environment)
   local real = check_owner(object)
   check(2, environment, 'table')
   if real then setfenv(object, environment) else environments[object] = environment end
end
