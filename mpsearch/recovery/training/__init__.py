"""Training of a plan's weights: straight-through gradients of the model as the plan runs it."""
