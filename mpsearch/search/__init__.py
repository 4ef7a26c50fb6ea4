"""Searchers: from a problem, and an evaluator of whole assignments, to a front; one file a method."""
