"""A search as a job: its file, its stages, the store of what was measured, and the demo."""
