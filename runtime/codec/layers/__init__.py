"""Layers that the flow and HiFT share."""
