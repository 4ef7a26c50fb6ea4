"""Commands for many runs at once."""
