"""What a plan loses per sample: outputs read, compared with references."""
