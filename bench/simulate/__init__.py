"""A fleet of engines on paper: what a traffic needs, before anybody rents the machines."""
