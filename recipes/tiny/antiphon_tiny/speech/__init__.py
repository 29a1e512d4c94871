"""Speech of the tiny model: voices to hear and to speak with, units, and the way back to sound."""
