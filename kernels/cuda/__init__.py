"""The CUDA kernels of `csrc/cuda/`, in a library of plain C functions: one build serves any torch version."""
