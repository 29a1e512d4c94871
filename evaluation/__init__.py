"""The evaluations of the paper (arXiv 2506.13642), and what they are scored by. See docs/evaluation.md."""
