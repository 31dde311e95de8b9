"""`cnxman._line`."""
