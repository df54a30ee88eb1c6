"""What a user said, kept across conversations."""
