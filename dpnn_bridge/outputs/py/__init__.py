"""Write a converted model as a Python file."""
