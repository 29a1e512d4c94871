"""The engine behind asyncio."""
