"""Benchmarks of the kernels, one op a file: its shapes in serving, the bytes and operations they need."""
