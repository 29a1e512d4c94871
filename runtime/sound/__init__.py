"""Sound files and samples, in and out."""
