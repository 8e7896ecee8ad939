-- md5: checksums of strings with Python's hashlib.
local bridge, py = ...
local hexadecimal = bridge.plain(py.md5)
local md5 = {sumhexa = hexadecimal}
function md5.sum(text) return (hexadecimal(text):gsub('..', function(pair) return string.char(tonumber(pair, 16)) end)) end
return md5
