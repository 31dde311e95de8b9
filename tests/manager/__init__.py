"""`cnxman._manager`."""
