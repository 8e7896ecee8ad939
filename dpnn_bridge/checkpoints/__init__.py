"""Find the models of a file, and describe the file."""
