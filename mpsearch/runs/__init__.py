"""What lies on disk: job files, run folders, measured losses."""
