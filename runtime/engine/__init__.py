"""The loop: requests in, events and completions out, one step at a time."""
