"""The WGSL shaders, one per operation; read through importlib.resources."""
