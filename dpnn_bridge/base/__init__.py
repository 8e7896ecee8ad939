"""What every room stands on: the boundary for errors, text that is shown, files that appear whole, paths in a graph."""
