"""Utilities independent of diffusion models: random streams, hashes, files that appear whole, signals, PyTorch's global state.

Not here: anything that knows the configuration, the data or a process.
"""
