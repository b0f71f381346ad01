"""The parts of a model in training: what moved, and stages that train different parts."""
