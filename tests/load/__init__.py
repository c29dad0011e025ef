"""Many clients, clients that take nothing, and hours of work: `python -m tests.load`."""
