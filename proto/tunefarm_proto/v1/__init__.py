"""Version 1 of the messages and their generated stubs."""
