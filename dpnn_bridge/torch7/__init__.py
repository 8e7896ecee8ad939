"""Implement numerical functions of Torch7: random numbers, sorting, and gradients that are not derivatives."""
