"""Comparing values: nested ones, tensors, bits."""
