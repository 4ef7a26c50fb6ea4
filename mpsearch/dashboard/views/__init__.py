"""One file a view: its layout, and what it shows when something is chosen."""
