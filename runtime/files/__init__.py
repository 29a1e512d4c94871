"""Files that others name: read within bounds, written whole or not at all."""
