"""The parts of `antiphon bench serve`: questions, clients, arrivals, and what is made of the times."""
