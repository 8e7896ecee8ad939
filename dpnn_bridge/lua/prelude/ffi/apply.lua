-- Lua functions over the elements of tensors (apply, map, map2), and torch.range.
local bridge, py = ...
local native, metatables = bridge.native, bridge.metatables
local states, read, loops, view, wrap = native.states, native.read, native.loops, native.view, native.wrap
local type, select, error, floor = type, select, error, math.floor

-- an element that the type does not hold as it is: Python converts it as C does
local function put_slowly(S, place, value)
   local V = view(S, place, 1)
   V[1], V[2] = 1, 1
   metatables['torch.' .. S.ty .. 'Tensor'].fill(wrap(native.measure(V)), value)
end

-- call f with the elements of S and of up to two tensors of the same type and count; what it returns replaces those of S
local function visit(S, f, A, B)
   local rows, columns, a, b, c, d, e, g = loops.layout(S, A, B)
   if not rows then return false end
   local get, put, strict = native.get[S.ty], native.put[S.ty], not S.dense
   local i, j, k = S.offset, A and A.offset, B and B.offset
   for _ = 1, rows do
      local at, from, second = i, j, k
      for _ = 1, columns do
         local value
         if B then value = f(get(S, at), get(A, from), get(B, second))
         elseif A then value = f(get(S, at), get(A, from))
         else value = f(get(S, at)) end
         if value ~= nil and (strict or value ~= false) then
            if type(value) ~= 'number' then error('given function should return a number or nil', 3) end
            if not put(S, at, value) then put_slowly(S, at, value) end
         end
         at, from, second = at + b, from and from + d, second and second + g
      end
      i, j, k = i + a, j and j + c, k and k + e
   end
   return true
end

for ty in pairs(native.kinds) do
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

local range = torch.range
function torch.range(...)
   local n, first, last, step = select('#', ...), ...
   step = step or 1
   local ty = bridge.default_type
   if n >= 2 and n <= 3 and type(first) == 'number' and type(last) == 'number' and type(step) == 'number'
      and (ty == 'Double' or ty == 'Float') and (step > 0 and last >= first or step < 0 and last <= first) then
      local count = floor((last - first) / step) + 1
      local object = count <= loops.FEW and metatables['torch.' .. ty .. 'Tensor'].new(count)
      local S = object and states[object]
      if S then
         local data = S.block.data
         for i = 0, count - 1 do data[S.offset + i] = i * step + first end
         return object
      end
   end
   return range(...)
end
