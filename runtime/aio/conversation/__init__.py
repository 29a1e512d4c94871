"""A conversation by voice: turns, replies and what was heard of them."""
