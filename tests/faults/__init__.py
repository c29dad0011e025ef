"""What happens when processes and servers die: real ones, see `python -m tests.faults`."""
