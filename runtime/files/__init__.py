"""Files named by the user: read within bounds, written whole or not at all."""
