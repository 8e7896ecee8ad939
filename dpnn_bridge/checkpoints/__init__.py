"""Find the models in a file, and describe the content of the file."""
