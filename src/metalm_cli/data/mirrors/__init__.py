"""Local copies of hub data sets: making and listing them."""
