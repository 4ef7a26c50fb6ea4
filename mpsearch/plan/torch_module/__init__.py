"""A plan in the user's own torch module."""
