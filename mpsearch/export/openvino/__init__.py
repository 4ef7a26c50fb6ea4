"""Plans as OpenVINO compiles them: no functions, free batch axes, and the settings that keep every rounding."""
