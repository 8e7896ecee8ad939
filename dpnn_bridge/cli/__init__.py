"""Implement the commands. Each parses options, calls the API and prints the result."""
