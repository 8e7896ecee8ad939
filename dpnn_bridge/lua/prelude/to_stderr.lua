-- Redirects the output of Lua to stderr, because commands write their results to stdout.
io.output(io.stderr)
function print(...)
   local words = {...}
   for i = 1, select('#', ...) do words[i] = tostring(words[i]) end
   io.write(table.concat(words, '\t'), '\n')
end
