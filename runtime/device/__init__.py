"""Where it computes: machine, device, CUDA graphs."""
