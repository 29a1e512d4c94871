"""When a user's turn begins and ends: events in audio time, from sound and from what the model has read."""
