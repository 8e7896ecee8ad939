"""What a file holds: where its models are, what it says, what its Lua bytecode names."""
