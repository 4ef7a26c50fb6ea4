"""What a runtime executes of a plan, and costs from its measured kernels."""
