"""Which points of a front become plans: by rule, by measured loss, by quality."""
