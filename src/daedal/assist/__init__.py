"""What helps a model to answer: ways to ask."""
