"""Distributed training: collectives, Accelerate, sharded state."""
