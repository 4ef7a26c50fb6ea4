"""What makes a plan lose less without training."""
