"""Talking over WebSockets: OpenAI's Realtime API in two dialects, and its Live API."""
