-- threads: jobs in the order in which they were added, in this one thread, and all in one Lua state.
local Threads = {}
Threads.__index = Threads

function Threads.new(count, ...)
   local self = setmetatable({N = count, jobs = {}, errors = false, endcallbacks = {n = 0}}, Threads)
   local results = {}  -- of each thread, what its functions returned
   for i = 1, count do
      __threadid, results[i] = i, {}
      for _, prepare in ipairs {...} do
         for _, value in ipairs {prepare(i)} do table.insert(results[i], value) end
      end
   end
   return self, results
end
function Threads.serialization() end
function Threads.isThreadSafe() return true end
function Threads:addjob(...)
   local first = ...
   local arguments = type(first) == 'number' and {n = select('#', ...) - 1, select(2, ...)} or {n = select('#', ...), ...}
   table.insert(self.jobs, {id = type(first) == 'number' and first or #self.jobs % self.N + 1, arguments})
end
function Threads:acceptsjob() return #self.jobs < self.N end
function Threads:hasjob() return #self.jobs > 0 end
function Threads:dojob()
   local job = table.remove(self.jobs, 1)
   if not job then return end
   local arguments = job[1]
   __threadid = job.id
   local function finish(...)
      if type(arguments[2]) == 'function' then arguments[2](...) end
   end
   finish(arguments[1](unpack(arguments, 3, arguments.n)))
end
function Threads:synchronize() while self:hasjob() do self:dojob() end end
function Threads:specific(on)
   if on ~= nil then self.is_specific = on end
   return self.is_specific or false
end
function Threads:haserror() return false end
function Threads:terminate() self:synchronize() end

local threads = {Threads = Threads, safe = function(f) return f end}
function threads.Mutex() return {lock = function() end, unlock = function() end, free = function() end, id = function() return 0 end} end
return setmetatable(threads, {__call = function(_, ...) return Threads.new(...) end, __index = Threads})
