"""The agent on each board."""
