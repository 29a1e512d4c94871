"""From mel to samples: HiFT."""
