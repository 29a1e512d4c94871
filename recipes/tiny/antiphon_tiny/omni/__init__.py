"""The checkpoint: what it sees, hears, thinks and says."""
