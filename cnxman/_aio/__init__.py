"""The parts of `cnxman.aio`: a line in a loop, its threads, and what waits."""
