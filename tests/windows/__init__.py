"""Runs cnxman on CPython for Windows, under Wine, with COM ports that are pulled out: see README.md."""
