"""Text by vLLM, in a process of its own, see `docs/architecture.md`."""
