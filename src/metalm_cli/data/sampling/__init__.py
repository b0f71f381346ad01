"""Which row is read when: the index plan, mixing rates, row slots, micro-batches, the loader."""
