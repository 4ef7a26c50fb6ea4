"""A finished run as figures, as one HTML file and as static pictures."""
