-- Geometry in Lua: sizes, views, resizing, new tensors. What is not the plain case goes to Python, with its errors.
local bridge, py = ...
local native, handles, metatables = bridge.native, bridge.handles, bridge.metatables
local states, storages, read, wrap, measure, moved = native.states, native.storages, native.read, native.wrap, native.measure, native.moved
local new_block, make_room, wrap_storage, read_storage = native.new_block, native.make_room, native.wrap_storage, native.read_storage
local type, select, tonumber, floor = type, select, tonumber, math.floor

local function whole(x) return type(x) == 'number' and floor(x) == x end

-- a new state with type and block of S, and sizes and strides too as far as they are not changed
local function view(S, offset, n, is_same)
   local V = {
      S[1], S[2], S[3], S[4], S[5], S[6], S[7], S[8],
      ty = S.ty, block = S.block, offset = offset, n = n, count = 0, dense = true, handle = false, current = false, object = false,
   }
   for k = 9, 2 * n do V[k] = S[k] end
   if is_same then V.count, V.dense = S.count, S.dense end
   return V
end
native.view = view

local function narrowed(S, d, first, count)
   local V = view(S, S.offset + first * S[2 * d], S.n)
   V[2 * d - 1] = count
   return measure(V)
end

local function selected(S, d, at)
   local n = S.n - 1
   local V = view(S, S.offset + at * S[2 * d], n)
   for k = 2 * d - 1, 2 * n do V[k] = S[k + 2] end
   return measure(V)
end
native.narrowed, native.selected = narrowed, selected

-- a new state of sizes a, b, c, d (the n first of them), contiguous at the beginning of a block
local function whole_of(ty, block, n, a, b, c, d)
   if n == 1 then
      return {a, 1, ty = ty, block = block, offset = 0, n = n, count = a, dense = true, handle = false, current = false, object = false}
   elseif n == 2 then
      return {a, b, b, 1, ty = ty, block = block, offset = 0, n = n, count = a * b, dense = true, handle = false, current = false, object = false}
   end
   local S = {a, b * c, b, c, c, 1, ty = ty, block = block, offset = 0, n = n, count = a * b * c, dense = true, handle = false, current = false, object = false}
   if n == 4 then
      S[2], S[4], S[6], S[7], S[8], S.count = b * c * d, c * d, d, d, 1, a * b * c * d
   end
   return S
end

-- set sizes a, b, c, d (the n first of them), contiguous; false where Python must
local function shape(S, n, a, b, c, d)
   S.n = n
   local step = 1
   if n == 4 then S[7], S[8], step = d, step, step * d end
   if n >= 3 then S[5], S[6], step = c, step, step * c end
   if n >= 2 then S[3], S[4], step = b, step, step * b end
   S[1], S[2] = a, step
   S.count, S.dense = step * a, true
end

local MANY = 2 ^ 26  -- elements for which Python may find no memory, an error of its own
-- Torch7's resize of a tensor to n <= 4 sizes > 0; false where Python must
local function resize(S, n, a, b, c, d)
   if n == S.n and S[1] == a and (n < 2 or S[3] == b) and (n < 3 or S[5] == c) and (n < 4 or S[7] == d) then return true end
   local count = a * (n > 1 and b or 1) * (n > 2 and c or 1) * (n > 3 and d or 1)
   if count > MANY then return false end
   make_room(S, count)
   shape(S, n, a, b, c, d)
   moved(S)
   return true
end

local function same_sizes(S, T)
   if T.n ~= S.n then return false end
   for k = 1, 2 * T.n, 2 do if S[k] ~= T[k] then return false end end
   return true
end

-- the same to the sizes of another state
local function resize_as(S, T)
   if T.n >= 1 and T.n <= 4 then return resize(S, T.n, T[1], T[3], T[5], T[7]) end
   return same_sizes(S, T)
end
native.resize, native.resize_as, native.same_sizes = resize, resize_as, same_sizes

-- a new tensor of n <= 4 sizes > 0, or nil where Python must
local function new_tensor(ty, n, a, b, c, d)
   local block = new_block(ty, a * (n > 1 and b or 1) * (n > 2 and c or 1) * (n > 3 and d or 1))
   if not block then return nil end
   local R = whole_of(ty, block, n, a, b, c, d)
   return wrap(R), R
end
native.new_tensor = new_tensor

-- the same of the sizes of a state
local function new_like(S)
   local n = S.n
   if n >= 1 and n <= 4 then return new_tensor(S.ty, n, S[1], S[3], S[5], S[7]) end
   local block = n > 0 and new_block(S.ty, S.count)
   if not block then return nil end
   local R = view(S, 0, n)
   R.block = block
   local step = 1
   for k = 2 * n - 1, 1, -2 do
      R[k + 1] = step
      step = step * S[k]
   end
   R.count = step
   return wrap(R), R
end
native.new_like = new_like

-- a new tensor without elements
function native.fresh(ty)
   local R = {ty = ty, block = false, offset = 0, n = 0, count = 0, dense = true, handle = false, current = false, object = false}
   return wrap(R), R
end

local function storage_of_longs(n, S, first)
   local block = new_block('Long', n)
   for k = 1, n do block.data[k - 1] = S[2 * k - 2 + first] end
   return wrap_storage(block)
end

local methods = {}

-- which of these apply: f(self, S, slow, ...); without a state Python is asked
local function define(name, f) methods[name] = f end

local function about(first)
   return function(self, S, slow, d, ...)
      if d == nil then
         if S.n > 0 then return storage_of_longs(S.n, S, first) end
      elseif whole(d) and d >= 1 and d <= S.n then
         return S[2 * d - 2 + first]
      end
      return slow(self, d, ...)
   end
end
define('size', about(1))
define('stride', about(2))
define('__len__', function(self, S, slow)
   if S.n > 0 then return storage_of_longs(S.n, S, 1) end
   return slow(self)
end)
local function dim(_, S) return S.n end
define('dim', dim)
define('nDimension', dim)
define('nElement', function(_, S) return S.count end)
define('storageOffset', function(_, S) return S.offset + 1 end)
define('isContiguous', function(_, S) return S.dense end)

define('isSameSizeAs', function(self, S, slow, other, ...)
   local T = states[other] or read(other)
   if not T or T.ty ~= S.ty then return slow(self, other, ...) end
   if T.n ~= S.n then return false end
   for k = 1, 2 * S.n, 2 do if S[k] ~= T[k] then return false end end
   return true
end)

define('storage', function(self, S, slow)
   if not S.block then return slow(self) end
   return wrap_storage(S.block)
end)

define('narrow', function(self, S, slow, d, first, count, ...)
   if whole(d) and whole(first) and whole(count) and d >= 1 and d <= S.n and first >= 1 and count > 0
      and first + count - 1 <= S[2 * d - 1] then
      return wrap(narrowed(S, d, first - 1, count))
   end
   return slow(self, d, first, count, ...)
end)

local get, put = {}, {}  -- type -> element access, filled by elements.lua
native.get, native.put = get, put

define('select', function(self, S, slow, d, at, ...)
   if whole(d) and whole(at) and d >= 1 and d <= S.n and at >= 1 and at <= S[2 * d - 1] then
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
   if whole(a) and whole(b) and a >= 1 and b >= 1 and a <= S.n and b <= S.n then return wrap(transposed(S, a, b)) end
   return slow(self, a, b, ...)
end)
define('t', function(self, S, slow, ...)
   if S.n == 2 then return wrap(transposed(S, 1, 2)) end
   return slow(self, ...)
end)

local function positive(n, a, b, c, d)
   return n >= 1 and n <= 4 and whole(a) and a > 0 and (n < 2 or whole(b) and b > 0) and (n < 3 or whole(c) and c > 0)
      and (n < 4 or whole(d) and d > 0)
end

-- sizes that are given as numbers, or as a LongStorage: how many, and up to four
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
   if positive(n, a, b, c, d) and resize(S, n, a, b, c, d) then return self end
   local m, e, f, g, h = sizes_of(n, a, b, c, d)
   if m ~= n or e ~= a then
      if positive(m, e, f, g, h) and resize(S, m, e, f, g, h) then return self end
   end
   return slow(self, ...)
end)

define('resizeAs', function(self, S, slow, other, ...)
   local T = states[other] or read(other)
   if T and T.ty == S.ty and resize_as(S, T) then return self end
   return slow(self, other, ...)
end)

-- the object becomes the view that T is
local function become(S, T)
   if T ~= S then
      S.block, S.offset, S.n, S.count, S.dense = T.block, T.offset, T.n, T.count, T.dense
      for k = 1, 2 * T.n do S[k] = T[k] end
      moved(S)
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

-- a view of the elements of S with other sizes
local function reshaped(S, n, a, b, c, d)
   if not S.dense or S.n == 0 then return nil end
   local known = (a == -1 and 1 or a) * (n > 1 and b ~= -1 and b or 1) * (n > 2 and c ~= -1 and c or 1) * (n > 3 and d ~= -1 and d or 1)
   local rest = S.count / known
   if a == -1 then a = rest elseif b == -1 then b = rest elseif c == -1 then c = rest elseif d == -1 then d = rest end
   if not positive(n, a, b, c, d) then return nil end
   local V = view(S, S.offset, n)
   shape(V, n, a, b, c, d)
   return V.count == S.count and V or nil
end

local function view_of(S, n, a, b, c, d)
   if n >= 1 and n <= 4 and whole(a) and (n < 2 or whole(b)) and (n < 3 or whole(c)) and (n < 4 or whole(d)) then
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
local function expansion(S, n, a, b, c, d) return positive(n, a, b, c, d) and expanded(S, n, a, b, c, d) end

-- f(S, sizes) as t:name(sizes) and result:name(t, sizes); name .. 'As' takes the sizes of a tensor
local function reshaping(name, f)
   local function made(self, S, V)
      if not V or not S then return V and wrap(V) end
      if name == 'view' and same_sizes(S, V) then  -- strides of equal sizes stay
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

-- put methods, by name, before those of Python
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

for ty in pairs(native.kinds) do
   local mt = metatables['torch.' .. ty .. 'Tensor']
   native.install(mt, ty, methods)

   -- torch.XTensor(), torch.XTensor(2, 3), t.new(2, 3)
   local function instead(slow)
      return function(...)
         local n, a, b, c, d = select('#', ...), ...
         if n == 0 then
            return (native.fresh(ty))
         end
         local T = n == 1 and type(a) == 'userdata' and (states[a] or read(a))
         if T and T.ty == ty and T.n > 0 then return wrap(view(T, T.offset, T.n, true)) end
         if ty ~= 'Long' then n, a, b, c, d = sizes_of(n, a, b, c, d) end
         if type(a) == 'number' and positive(n, a, b, c, d) then
            local object = new_tensor(ty, n, a, b, c, d)
            if object then return object end
         end
         return slow(...)
      end
   end
   local constructor = bridge.getmetatable(rawget(mt, '__constructor'))
   local new = instead(constructor.__new)
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
