"""cnxman beside other readers of serial lines, on pseudo-terminals: ``python -m benchmarks`` (Linux only).

Writer and reader are processes of their own, the readers take turns (A B C, then C B A), what comes is verified.
Pinned: on one CPU, as a wake-up across CPUs costs more than the read, and varies threefold between runs.
"""
