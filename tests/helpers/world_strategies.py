"""Strategies for the property tests of the scheduler."""

from __future__ import annotations

from hypothesis import strategies as st

__all__ = ["requests", "settings_of_worlds"]

settings_of_worlds = st.fixed_dictionaries(
    {
        "block_size": st.sampled_from([1, 2, 3, 4, 7, 16, 64]),
        "num_text_layers": st.sampled_from([1, 2, 4]),
        "num_speech_layers": st.sampled_from([1, 2, 8]),
        "max_num_seqs": st.sampled_from([1, 2, 3, 8]),
        "max_num_batched_tokens": st.sampled_from([1, 2, 5, 16, 300]),
        "text_lookahead": st.sampled_from([0, 1, 4, 30]),
        "max_fused_tokens": st.sampled_from([1, 3, 64]),
        "enable_prefix_caching": st.booleans(),
        "hears_at_once": st.booleans(),
    }
)
# Few words, units and pictures, so that prefixes are often shared.
requests = st.fixed_dictionaries(
    {
        "words": st.lists(st.integers(20, 21), max_size=8),
        "units": st.just([]) | st.lists(st.integers(0, 1), max_size=12),
        "pictures": st.lists(st.sampled_from("ab"), max_size=2),
        "max_tokens": st.sampled_from([1, 4, 40]),
        "max_units": st.sampled_from([None, 1, 8, 40]),
        "ignore_eos": st.booleans(),
    }
)
