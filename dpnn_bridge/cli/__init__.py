"""The commands. Each reads its options, calls the API and prints."""
