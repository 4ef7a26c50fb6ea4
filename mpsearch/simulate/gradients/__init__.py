"""Gradients of a loss through the model: mixtures of schemes, and where gradients are lost."""
