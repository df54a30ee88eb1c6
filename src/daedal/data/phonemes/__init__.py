"""English text to phonemes: text is written out in words, words are looked up or guessed, and what
depends on the context is decided by it."""
