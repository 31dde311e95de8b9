"""What `cnxman.compat` is made of: the line that is kept up for it, what was received, errors, the URL."""
