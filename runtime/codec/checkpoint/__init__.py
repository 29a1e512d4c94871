"""A CosyVoice folder, read as data."""
