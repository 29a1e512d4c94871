"""From speech to units and voices."""
