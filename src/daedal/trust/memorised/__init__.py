"""What a model was trained on, kept small enough to travel with it, and what of it a result repeats."""
