"""A Stream-Omni checkpoint: its settings, and its tensors loaded."""
