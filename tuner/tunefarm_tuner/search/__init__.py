"""Search: which candidates to try next. Pure: no clock, no device, no file."""
