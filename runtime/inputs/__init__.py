"""From what users send to prompts."""
