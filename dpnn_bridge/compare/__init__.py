"""Compare nested values, tensors and bits."""
