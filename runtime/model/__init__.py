"""The model: three stacks of layers over a paged cache, and the runner that drives them."""
