"""The command `cnxman`."""
