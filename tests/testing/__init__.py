"""`cnxman.testing`."""
