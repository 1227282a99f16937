"""Brokers devices: who is there, who waits, who holds what."""
