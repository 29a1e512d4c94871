"""Speech to units and voices."""
