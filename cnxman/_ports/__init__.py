"""What serves `cnxman.ports` alone."""
