"""Many jobs: which runs they are, and what they found."""
