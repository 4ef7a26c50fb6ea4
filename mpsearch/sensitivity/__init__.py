"""How much each group suffers in each scheme: one file a metric."""
