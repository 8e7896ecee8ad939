-- Redirects what Lua prints, because the stdout of a command is its result.
io.output(io.stderr)
function print(...)
   local words = {...}
   for i = 1, select('#', ...) do words[i] = tostring(words[i]) end
   io.write(table.concat(words, '\t'), '\n')
end
