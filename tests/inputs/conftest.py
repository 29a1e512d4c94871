from golden_requests import checkpoint, config, golden, tokenizer

__all__ = ["checkpoint", "config", "golden", "tokenizer"]
