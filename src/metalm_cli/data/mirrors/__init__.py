"""Local copies of hub data sets: making, listing and removing them."""
