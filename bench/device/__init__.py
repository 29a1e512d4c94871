"""What can only be known on a machine with a GPU, as one command: `python -m antiphon.bench.device`."""
