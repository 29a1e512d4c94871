"""The Triton kernels, one file for each op. Imported only when an op runs: triton is optional, and importing
`antiphon.kernels` must not load it.

Each file has the kernels and one function that launches them, with the arguments that the op's wrapper has
checked. On a machine without a GPU they run in Triton's interpreter (TRITON_INTERPRET=1), for tests.
"""
