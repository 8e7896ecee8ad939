-- sys: time, processes, paths and colors of terminals.
local bridge = ...
local paths = require 'paths'
sys = {}
for name, f in pairs(require 'libsys') do sys[name] = f end

local started
function sys.tic() started = sys.clock() end
function sys.toc(verbose)
   local passed = sys.clock() - (started or sys.clock())
   if verbose then print(passed) end
   return passed
end
function sys.sleep(seconds) sys.usleep(seconds * 1e6) end

function sys.execute(command)
   local program = assert(io.popen(command .. ' 2>&1'))
   local text = program:read('*a')
   program:close()
   return (text:gsub('^%s*', ''):gsub('%s*$', ''))
end
function sys.fexecute(command, format)  -- writes the output to a file and reads it with file:read(format)
   local path = os.tmpname()
   os.execute(command .. ' >' .. path .. ' 2>&1')
   local file = assert(io.open(path))
   local text = file:read(format or '*all')
   file:close()
   os.remove(path)
   return (text:gsub('^%s*', ''):gsub('%s*$', ''))
end

local names = {Linux = 'linux', Darwin = 'macos', Windows = 'windows'}
function sys.uname() return names[(paths.uname())] or '?' end
sys.OS = sys.uname()

function sys.ls(folder) return sys.execute('ls ' .. (folder or '')) end
function sys.ll(folder) return sys.execute('ls -l ' .. (folder or '')) end
function sys.la(folder) return sys.execute('ls -a ' .. (folder or '')) end
function sys.lla(folder) return sys.execute('ls -la ' .. (folder or '')) end
sys.prefix = ''  -- in Torch7, the folder where luajit is installed
function sys.isNaN(number) return number ~= number end
sys.dirname, sys.basename, sys.concat, sys.dirp, sys.filep = paths.dirname, paths.basename, paths.concat, paths.dirp, paths.filep

sys.split = bridge.split

function sys.fpath()
   local path = paths.concat((bridge.debug.getinfo(2, 'S').source:gsub('@', '')))
   return paths.dirname(path), paths.basename(path)
end

sys.COLORS = {none = '\27[0m', black = '\27[0;30m', red = '\27[0;31m', green = '\27[0;32m', yellow = '\27[0;33m',
   blue = '\27[0;34m', magenta = '\27[0;35m', cyan = '\27[0;36m', white = '\27[0;37m', Black = '\27[1;30m', Red = '\27[1;31m',
   Green = '\27[1;32m', Yellow = '\27[1;33m', Blue = '\27[1;34m', Magenta = '\27[1;35m', Cyan = '\27[1;36m', White = '\27[1;37m',
   _black = '\27[40m', _red = '\27[41m', _green = '\27[42m', _yellow = '\27[43m', _blue = '\27[44m', _magenta = '\27[45m',
   _cyan = '\27[46m', _white = '\27[47m'}
package.loaded['sys.colors'], package.loaded['sys.fpath'] = sys.COLORS, sys.fpath
return sys
