"""From ids, as they become known, to events and sound."""
