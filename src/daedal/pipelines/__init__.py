"""Prompts to content: one file a medium, and the registry of them."""
