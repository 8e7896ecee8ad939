"""Implement Torch7's numerics: its random generator, its sort, its gradients."""
