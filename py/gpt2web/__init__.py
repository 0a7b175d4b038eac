"""GPT-2 text generation on WebGPU, written in Python."""
