"""What the ways of sampling have in common: a row's random number, and how likely its logits are."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["exact_weights", "uniform"]


@triton.jit
def exact_weights(logits, largest, temperature):
    """exp((logit - largest) / temperature) in float64, 0 for minus infinity; temperature: float32, not 0"""
    largest = tl.where(largest > float("-inf"), largest, 0.0)
    temperature = tl.maximum(temperature, 1e-37).to(tl.float64)
    weights = tl.exp((logits - largest) / temperature)
    # The difference of two infinities is NaN.
    return tl.where(logits > float("-inf"), tl.where(logits == largest, 1.0, weights), 0.0)


@triton.jit
def uniform(seed, position):
    """`uniform_reference`, in float64: two rounds of SplitMix64."""
    state = _mix(seed.to(tl.uint64) ^ 0x9E3779B97F4A7C15)
    bits = _mix(state + (position.to(tl.uint64) + 1) * 0x9E3779B97F4A7C15)
    return (bits >> 11).to(tl.float64) * (1.0 / (1 << 53))


@triton.jit
def _mix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)
