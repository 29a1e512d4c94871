"""The Triton kernels, one file for each op, and `rotation` for those that rotate on their way. Imported only
when an op runs: triton is optional, and importing `antiphon.kernels` must not load it.

Each file has the kernels and the functions that launch them, with the arguments that the op's wrapper has
checked. On a machine without a GPU they run in Triton's interpreter (TRITON_INTERPRET=1), for tests.
"""
