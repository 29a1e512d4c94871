"""The Triton kernels, one file per op; `head` and `rotation` hold what several of them share. Imported only
when an op runs: triton is optional, and importing `antiphon.kernels` must not load it.

Each file has the kernels and the functions that launch them, which take arguments that the op's wrapper has
checked. On a machine without a GPU they run in Triton's interpreter (TRITON_INTERPRET=1), for tests.
"""
