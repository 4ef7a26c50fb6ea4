"""Commands on a plan: choose, show, export, verify."""
