"""Mel to samples: HiFT."""
