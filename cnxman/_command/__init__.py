"""The parts of the command `cnxman`, which `cnxman.cli` puts together."""
