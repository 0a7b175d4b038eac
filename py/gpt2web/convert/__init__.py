"""Native only: checkpoints of other forms into model folders.

`python -m gpt2web.convert --help` is the command. Nowhere else does gpt2web import numpy.
"""
