"""What `cnxman share` is made of: its clients, the loop that serves them, and what waits on the way."""
