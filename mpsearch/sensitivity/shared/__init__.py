"""What metrics share: entries to measure, effort, probes, curvature."""
