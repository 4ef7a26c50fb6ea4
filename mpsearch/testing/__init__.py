"""Conformance suites for plug-ins, for their authors to import."""
