"""The engine behind HTTP: the protocols that existing clients speak. Only this room knows JSON."""
