"""`cnxman.basics`."""
