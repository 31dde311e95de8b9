"""Pulls a real USB serial adapter out from under cnxman: see README.md."""
