"""`cnxman.serial`."""
