"""The farm in a browser."""
