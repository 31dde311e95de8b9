"""An open port: reading, writing and closing it, for each kind of port. Knows no manager."""
