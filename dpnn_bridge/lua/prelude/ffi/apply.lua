-- apply, map, map2, totable and torch.cat without calling Python.
local bridge = ...
local native, metatables = bridge.native, bridge.metatables
local states, storages, read, loops, view, wrap = native.states, native.storages, native.read, native.loops, native.view, native.wrap
local type, select, error, floor = type, select, error, math.floor

-- store a number that the type does not represent exactly: Python converts it as C does
local function put_slowly(S, place, value)
   local V = view(S, place, 1)
   V[1], V[2] = 1, 1
   metatables['torch.' .. S.ty .. 'Tensor'].fill(wrap(native.measure(V)), value)
end

-- The memory is looked up for every element, because f may move it. Where Torch7 calls f from C (strict), a numeric string is a
-- number; where it calls f through ffi, true is 1 and false changes nothing.
local VISIT = [[
return function(f, strict, put_slowly, rows, columns, S, i, a, b, A, j, c, d, B, k, e, g)
   local block, first, second = S.block, A.block, B.block
   for _ = 1, rows do
      local p, q, r = i, j, k
      for _ = 1, columns do
         local value = f(ELEMENTS)
         if value ~= nil and (strict or value ~= false) then
            if type(value) ~= 'number' then
               value = strict and tonumber(value) or not strict and value == true and 1
               if not value then return false end
            end
            if EXACT then block.data[p] = value else put_slowly(S, p, value) end
         end
         p, q, r = p + b, q + d, r + g
      end
      i, j, k = i + a, j + c, k + e
   end
   return true
end
]]
local ELEMENTS = {'at(block.data, p)', 'at(block.data, p), at(first.data, q)', 'at(block.data, p), at(first.data, q), at(second.data, r)'}
local function source_of(ty, count)
   local limit = native.limits[ty]
   local exact = limit[1] and string.format('value >= %d and value <= %d and floor(value) == value', limit[1], limit[2]) or 'true'
   local source = VISIT:gsub('ELEMENTS', ELEMENTS[count]):gsub('EXACT', exact)
   return (ty == 'Long' or ty == 'Int') and source:gsub('at(%b())', 'tonumber(at%1)') or source
end
local visitors = {}
for ty in pairs(native.limits) do
   visitors[ty] = loops.kernels(function(count) return source_of(ty, count) end, ' elements')
end
-- LuaJIT compiles a loop for the function that it calls first, so calls with many elements get a loop of their own
local OWN_LOOP_FROM = 65536
local function visitor(ty, elements, count)
   if elements > OWN_LOOP_FROM then return loops.compile(ty, source_of(ty, count), 'elements') end
   return visitors[ty](ty, count)
end

-- call f with the elements of S and of up to two tensors of the same type and count; its results replace the elements of S
local function visit(S, f, A, B)
   local rows, columns, a, b, c, d, e, g = loops.layout(S, A, B)
   if not rows or not visitors[S.ty] then return false end
   local run = visitor(S.ty, S.count, B and 3 or A and 2 or 1)
   local strict = not (S.dense and (not A or A.dense) and (not B or B.dense))
   A, B = A or S, B or S
   if not run(f, strict, put_slowly, rows, columns, S, S.offset, a, b, A, A.offset, c, d, B, B.offset, e, g) then
      error('given function should return a number or nil', 3)
   end
   return true
end

for ty in pairs(native.c_types) do
   local mt = metatables['torch.' .. ty .. 'Tensor']
   local function state(x)
      local S = type(x) == 'userdata' and (states[x] or read(x))
      return S and S.ty == ty and S.block and S.count > 0 and S
   end
   for name, others in pairs {apply = 0, map = 1, map2 = 2} do
      local slow = mt[name]
      if slow then
         mt[name] = function(self, ...)
            local first, second, third = ...
            local f = others == 0 and first or others == 1 and second or others == 2 and third
            local S = select('#', ...) == others + 1 and type(f) == 'function' and state(self)
            local A, B = others > 0 and state(first), others > 1 and state(second)
            if S and (others < 1 or A and A.count == S.count) and (others < 2 or B and B.count == S.count)
               and visit(S, f, A or nil, B or nil) then
               return self
            end
            return slow(self, ...)
         end
      end
   end
end

-- nested tables of numbers
local function table_of(get, S, d, place)
   local values, size, step = {}, S[2 * d - 1], S[2 * d]
   for i = 1, size do
      values[i] = d == S.n and get(S, place) or table_of(get, S, d + 1, place)
      place = place + step
   end
   return values
end
for ty in pairs(native.c_types) do
   local get = native.get[ty]
   if get then
      local mt, storage = metatables['torch.' .. ty .. 'Tensor'], metatables['torch.' .. ty .. 'Storage']
      local slow, slow_storage = mt.totable, storage.totable
      mt.totable = function(self, ...)
         local S = type(self) == 'userdata' and (states[self] or read(self))
         local result = S and S.ty == ty and S.count > 0 and table_of(get, S, 1, S.offset)
         if result then return result end
         return slow(self, ...)
      end
      storage.totable = function(self, ...)
         local block = storages[self]
         if not block or block.ty ~= ty then return slow_storage(self, ...) end
         local values, S = {}, {block = block}
         for i = 1, block.size do values[i] = get(S, i - 1) end
         return values
      end
   end
end

-- concatenate tensors along dimension d in the result R or a new tensor; nil if Python must do it
local function concatenated(list, d, object, R)
   local first = native.state(list[1])
   local n = first and first.n
   d = d or n
   if not first or R and R.ty ~= first.ty or n < 1 or n > 4 or type(d) ~= 'number' or floor(d) ~= d or d < 1 or d > n
      or not native.get[first.ty] then
      return nil
   end
   local total = 0
   for i = 1, #list do
      local S = native.state(list[i], first.ty)
      if not S or S.n ~= n or R and S.block == R.block then return nil end
      for k = 1, n do
         if k ~= d and S[2 * k - 1] ~= first[2 * k - 1] then return nil end
      end
      total = total + S[2 * d - 1]
   end
   local e, f, g, h = d == 1 and total or first[1], d == 2 and total or first[3], d == 3 and total or first[5], d == 4 and total or first[7]
   if not R then object, R = native.fresh(first.ty) end
   if not native.resize(R, n, e, f, g, h) or not R.dense then return nil end
   local from = 0
   for i = 1, #list do
      local S = states[list[i]]
      local V = native.narrowed(R, d, from, S[2 * d - 1])
      if S.count > loops.LONG or not loops.pointwise('copy', V, S) then metatables['torch.' .. S.ty .. 'Tensor'].copy(wrap(V), list[i]) end
      from = from + S[2 * d - 1]
   end
   return object
end

-- (a, b), (a, b, d), ({a, b ...}), ({a, b ...}, d), without the result
local function joined(object, R, n, a, b, d)
   if type(a) == 'table' then
      if n == 1 or n == 2 and b then return concatenated(a, b, object, R) end
   elseif (n == 2 or n == 3 and d) and type(a) == 'userdata' and type(b) == 'userdata' then
      return concatenated({a, b}, d, object, R)
   end
end
local cat = torch.cat
function torch.cat(...)
   local object = joined(nil, nil, select('#', ...), ...)
   if object then return object end
   return cat(...)
end
for ty in pairs(native.limits) do
   local mt = metatables['torch.' .. ty .. 'Tensor']
   local slow = mt.cat
   mt.cat = function(self, ...)
      local R = type(self) == 'userdata' and (states[self] or read(self))
      if R and R.ty == ty and joined(self, R, select('#', ...), ...) then return self end
      return slow(self, ...)
   end
end
