"""Commands before a search: what there is, what fits, what is missing."""
