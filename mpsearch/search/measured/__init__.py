"""What searches that measure share: archive, repair, evolution, regression."""
