"""Figures of a report and their export."""
