"""Processes and devices: collectives, Accelerate, sharded state."""
