"""Tools that a language model may call, the loop that calls them, and what they may do."""
