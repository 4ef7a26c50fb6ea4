"""Runtimes that execute exported models, opened by name."""
