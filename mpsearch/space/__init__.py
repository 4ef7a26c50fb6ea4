"""What may be chosen: schemes, rules by role and name, targets."""
