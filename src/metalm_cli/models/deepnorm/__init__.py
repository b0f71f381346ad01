"""The paper's DeepNorm transformer stacks."""
