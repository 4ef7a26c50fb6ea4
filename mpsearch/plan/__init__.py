"""Plans: made from a point, written and read as files, matched with a model."""
