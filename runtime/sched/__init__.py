"""Decides what each pass computes: plain Python, no torch, no model."""
