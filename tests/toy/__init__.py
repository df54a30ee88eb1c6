"""A medium of tones, as somebody adds one: settings, pipeline and metrics, and one line in the
registry."""
