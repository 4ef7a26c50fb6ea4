"""Pictures, text and tables made into the arrays that a model reads."""
