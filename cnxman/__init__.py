"""Keeps a connection to a device up."""

__version__ = "0.1.0"
