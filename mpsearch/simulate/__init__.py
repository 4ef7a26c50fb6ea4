"""The model under any assignment of schemes: ranges, weights, losses, gradients."""
