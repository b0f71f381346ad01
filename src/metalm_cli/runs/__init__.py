"""The run folder on disk: checkpoints, metrics, data record, resume checks."""
