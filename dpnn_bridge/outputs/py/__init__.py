"""A converted model as a Python file of its own."""
