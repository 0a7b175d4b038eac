"""Native only: checkpoints of other forms into model folders."""
