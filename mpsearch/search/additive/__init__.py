"""Exact solutions of additive problems: elimination, hulls, linear programs."""
