"""`antiphon bench peers`: the LLM alone beside other engines, with the same weights and prompts, in turns."""
