"""What a model was trained on, what was held out, and which texts overlap."""
