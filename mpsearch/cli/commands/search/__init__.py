"""Commands that measure, price and search."""
