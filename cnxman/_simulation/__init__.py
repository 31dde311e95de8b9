"""The parts of `cnxman.testing`'s simulated device: its line, the pseudo-terminal, streams, answers, faults."""
