"""Commands on a run folder."""
