"""Prompt to content: a pipeline a medium, results that save, show and reproduce themselves, and the history of what was made."""
