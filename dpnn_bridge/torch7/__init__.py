"""What Torch7 itself does with numbers: its random generator, its sort, its gradients."""
