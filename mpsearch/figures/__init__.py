"""Figures and rows as values, drawn for report, page and print."""
