"""From units to mel: the flow."""
