"""Where computation happens: machine, device, CUDA graphs."""
