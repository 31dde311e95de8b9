"""cnxman beside other readers of serial lines, on pseudo-terminals: ``python -m benchmarks`` (Linux only).

The writer is a process of its own, every measurement a fresh reader process; the readers take turns (A B C, then
C B A) and every byte is verified. Where it says pinned, reader and writer share one CPU: a wake-up across CPUs
costs more than the read and varies threefold between runs, so that only pinned figures tell readers apart.
"""
