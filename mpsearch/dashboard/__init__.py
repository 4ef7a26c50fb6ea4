"""A place to look at runs, compare them, choose a plan and take it away: pages of this machine for its user alone."""
