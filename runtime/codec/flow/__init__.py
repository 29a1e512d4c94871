"""Units to mel: the flow."""
