"""What happens when somebody means harm: see `python -m tests.security`."""
