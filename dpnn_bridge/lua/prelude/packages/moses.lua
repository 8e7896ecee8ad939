-- moses: the part that nn, dpnn and rnn use, where there is no checkout.
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
