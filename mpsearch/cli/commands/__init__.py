"""Sub-commands, in folders by the step they serve."""
