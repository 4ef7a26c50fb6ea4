"""Measured losses that all runs of a user or a team share: SQLite in one file, or PostgreSQL."""
