-- Sizes, views, resizing and new tensors without calling Python. Other cases, and errors, are left to Python.
local bridge = ...
local native, metatables = bridge.native, bridge.metatables
local states, storages, read, wrap, measure, view_changed = native.states, native.storages, native.read, native.wrap, native.measure, native.view_changed
local new_block, wrap_storage, read_storage = native.new_block, native.wrap_storage, native.read_storage
local view, narrowed, selected, shape, same_sizes = native.view, native.narrowed, native.selected, native.shape, native.same_sizes
local resize, resize_as, new_tensor = native.resize, native.resize_as, native.new_tensor
local type, select, tonumber = type, select, tonumber

local is_integer = native.is_integer

local function storage_of_longs(n, S, first)
   local block = new_block('Long', n)
   for k = 1, n do block.data[k - 1] = S[2 * k - 2 + first] end
   return wrap_storage(block)
end

local methods = {}

-- f(self, S, slow, ...) is called if the tensor has a state S; slow is Python's method
local function define(name, f) methods[name] = f end

local function sizes_or_strides(first)
   return function(self, S, slow, d, ...)
      if d == nil then
         if S.n > 0 then return storage_of_longs(S.n, S, first) end
      elseif is_integer(d) and d >= 1 and d <= S.n then
         return S[2 * d - 2 + first]
      end
      return slow(self, d, ...)
   end
end
define('size', sizes_or_strides(1))
define('stride', sizes_or_strides(2))
define('__len__', methods.size)
local function dim(_, S) return S.n end
define('dim', dim)
define('nDimension', dim)
define('nElement', function(_, S) return S.count end)
define('storageOffset', function(_, S) return S.offset + 1 end)
define('isContiguous', function(_, S) return S.dense end)

define('isSameSizeAs', function(self, S, slow, other, ...)
   local T = states[other] or read(other)
   if not T or T.ty ~= S.ty then return slow(self, other, ...) end
   return same_sizes(S, T)
end)

define('storage', function(self, S, slow)
   if not S.block then return slow(self) end
   return wrap_storage(S.block)
end)

define('narrow', function(self, S, slow, d, first, count, ...)
   if is_integer(d) and is_integer(first) and is_integer(count) and d >= 1 and d <= S.n and first >= 1 and count > 0
      and first + count - 1 <= S[2 * d - 1] then
      return wrap(narrowed(S, d, first - 1, count))
   end
   return slow(self, d, first, count, ...)
end)

local get, put = {}, {}  -- type -> element access, filled by elements.lua
native.get, native.put = get, put

define('select', function(self, S, slow, d, at, ...)
   if is_integer(d) and is_integer(at) and d >= 1 and d <= S.n and at >= 1 and at <= S[2 * d - 1] then
      if S.n > 1 then return wrap(selected(S, d, at - 1)) end
      if get[S.ty] then return get[S.ty](S, S.offset + (at - 1) * S[2]) end
   end
   return slow(self, d, at, ...)
end)

local function transposed(S, a, b)
   local V = view(S, S.offset, S.n)
   V[2 * a - 1], V[2 * a], V[2 * b - 1], V[2 * b] = S[2 * b - 1], S[2 * b], S[2 * a - 1], S[2 * a]
   return measure(V)
end
define('transpose', function(self, S, slow, a, b, ...)
   if is_integer(a) and is_integer(b) and a >= 1 and b >= 1 and a <= S.n and b <= S.n then return wrap(transposed(S, a, b)) end
   return slow(self, a, b, ...)
end)
define('t', function(self, S, slow, ...)
   if S.n == 2 then return wrap(transposed(S, 1, 2)) end
   return slow(self, ...)
end)

local function are_positive(n, a, b, c, d)
   return n >= 1 and n <= 4 and is_integer(a) and a > 0 and (n < 2 or is_integer(b) and b > 0) and (n < 3 or is_integer(c) and c > 0)
      and (n < 4 or is_integer(d) and d > 0)
end

-- sizes from numbers or a LongStorage: their count, and up to four sizes
local function sizes_of(n, a, b, c, d)
   local block = n == 1 and type(a) == 'userdata' and storages[a]
   if not block then return n, a, b, c, d end
   if block.ty ~= 'Long' or block.size > 4 then return 0 end
   local data, m = block.data, block.size
   return m, m > 0 and tonumber(data[0]) or nil, m > 1 and tonumber(data[1]) or nil, m > 2 and tonumber(data[2]) or nil,
      m > 3 and tonumber(data[3]) or nil
end

define('resize', function(self, S, slow, ...)
   local n, a, b, c, d = select('#', ...), ...
   if are_positive(n, a, b, c, d) and resize(S, n, a, b, c, d) then return self end
   local m, e, f, g, h = sizes_of(n, a, b, c, d)
   if m ~= n or e ~= a then
      if are_positive(m, e, f, g, h) and resize(S, m, e, f, g, h) then return self end
   end
   return slow(self, ...)
end)

define('resizeAs', function(self, S, slow, other, ...)
   local T = states[other] or read(other)
   if T and T.ty == S.ty and resize_as(S, T) then return self end
   return slow(self, other, ...)
end)

-- let the tensor of S become a view like T
local function become(S, T)
   if T ~= S then
      S.block, S.offset, S.n, S.count, S.dense = T.block, T.offset, T.n, T.count, T.dense
      for k = 1, 2 * T.n do S[k] = T[k] end
      view_changed(S)
   end
   return S.object
end
native.become = become
define('set', function(self, S, slow, ...)
   local other = ...
   local T = select('#', ...) == 1 and (states[other] or read(other))
   if not T or T.ty ~= S.ty then return slow(self, ...) end
   return become(S, T)
end)

-- a view of the elements of S with n other sizes, of which one may be -1
local function reshaped(S, n, a, b, c, d)
   if not S.dense or S.n == 0 then return nil end
   local known = (a == -1 and 1 or a) * (n > 1 and b ~= -1 and b or 1) * (n > 2 and c ~= -1 and c or 1) * (n > 3 and d ~= -1 and d or 1)
   local rest = S.count / known
   if a == -1 then a = rest elseif b == -1 then b = rest elseif c == -1 then c = rest elseif d == -1 then d = rest end
   if not are_positive(n, a, b, c, d) then return nil end
   local V = view(S, S.offset, n)
   shape(V, n, a, b, c, d)
   return V.count == S.count and V or nil
end

local function view_of(S, n, a, b, c, d)
   if n >= 1 and n <= 4 and is_integer(a) and (n < 2 or is_integer(b)) and (n < 3 or is_integer(c)) and (n < 4 or is_integer(d)) then
      return reshaped(S, n, a, b, c, d)
   end
end

local function expanded(S, n, ...)
   if S.n ~= n or n == 0 then return nil end
   local V = view(S, S.offset, n)
   for k = 1, n do
      local size, from = (select(k, ...)), S[2 * k - 1]
      if from == 1 then V[2 * k - 1], V[2 * k] = size, 0
      elseif from == size then V[2 * k - 1], V[2 * k] = size, S[2 * k]
      else return nil end
   end
   return measure(V)
end
local function expansion(S, n, a, b, c, d) return are_positive(n, a, b, c, d) and expanded(S, n, a, b, c, d) end

-- define t:name(sizes) and result:name(t, sizes) by f(S, sizes), and the methods name .. 'As' with the sizes of a tensor
local function reshaping(name, f)
   local function made(self, S, V)
      if not V or not S then return V and wrap(V) end
      if name == 'view' and same_sizes(S, V) then  -- strides do not change if the sizes are equal
         for k = 2, 2 * V.n, 2 do V[k] = S[k] end
         measure(V)
      end
      return become(S, V)
   end
   define(name, function(self, S, slow, ...)
      local n, first = select('#', ...), ...
      local T = n > 1 and type(first) == 'userdata' and (states[first] or read(first))
      local object
      if T then
         object = T.ty == S.ty and made(self, S, f(T, sizes_of(n - 1, select(2, ...))))
      elseif n > 0 then
         object = made(self, nil, f(S, sizes_of(n, ...)))
      end
      if object then return object end
      return slow(self, ...)
   end)
   define(name .. 'As', function(self, S, slow, ...)
      local n, first, second = select('#', ...), ...
      local T = n == 2 and (states[first] or read(first))
      local other = n == 2 and second or n == 1 and first
      local O, object = other and (states[other] or read(other)), nil
      if O and O.n >= 1 and O.n <= 4 and (n == 1 or T and T.ty == S.ty) then
         object = made(self, T and S, f(T or S, O.n, O[1], O[3], O[5], O[7]))
      end
      if object then return object end
      return slow(self, ...)
   end)
end
reshaping('view', view_of)
reshaping('expand', expansion)

define('contiguous', function(self, S) return S.dense and self or metatables['torch.' .. S.ty .. 'Tensor'].clone(self) end)

-- replace Python's methods by those in `more`
function native.install(mt, ty, more)
   for name, f in pairs(more) do
      local slow = mt[name]
      if slow then
         mt[name] = function(self, ...)
            local S = states[self] or read(self)
            if S and S.ty == ty then return f(self, S, slow, ...) end
            return slow(self, ...)
         end
      end
   end
end

for ty in pairs(native.c_types) do
   local mt = metatables['torch.' .. ty .. 'Tensor']
   native.install(mt, ty, methods)

   -- torch.XTensor(), torch.XTensor(2, 3), t.new(2, 3)
   local function faster_constructor(slow)
      return function(...)
         local n, a, b, c, d = select('#', ...), ...
         if n == 0 then
            return (native.fresh(ty))
         end
         local T = n == 1 and type(a) == 'userdata' and (states[a] or read(a))
         if T and T.ty == ty and T.n > 0 then return wrap(view(T, T.offset, T.n, true)) end
         if ty ~= 'Long' then n, a, b, c, d = sizes_of(n, a, b, c, d) end
         if type(a) == 'number' and are_positive(n, a, b, c, d) then
            local object = new_tensor(ty, n, a, b, c, d)
            if object then return object end
         end
         return slow(...)
      end
   end
   local constructor = bridge.getmetatable(rawget(mt, '__constructor'))
   local new = faster_constructor(constructor.__new)
   constructor.__new, mt.new = new, new

   local storage = metatables['torch.' .. ty .. 'Storage']
   local size = storage.size
   local function storage_size(self, ...)
      local block = storages[self] or read_storage(self, ty)
      if block and block.ty == ty then return block.size end
      return size(self, ...)
   end
   storage.size, storage.__len__ = storage_size, storage_size
   local fill = storage.fill
   function storage.fill(self, value, ...)
      local block = storages[self] or read_storage(self, ty)
      if block and block.ty == ty and ty ~= 'Half' and native.fits(ty, value) then
         for i = 0, block.size - 1 do block.data[i] = value end
         return self
      end
      return fill(self, value, ...)
   end
end
