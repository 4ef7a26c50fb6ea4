"""Estimates with standard errors, rank correlation, paired tests and regressions."""
