"""Who computes what next: plain Python, no torch, no model."""
