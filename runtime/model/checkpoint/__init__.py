"""Loads a Stream-Omni checkpoint: its settings and its tensors."""
