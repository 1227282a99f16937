"""Searches for the fastest schedule on real devices."""
