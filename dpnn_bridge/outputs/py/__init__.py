"""Write a model as Python source code."""
