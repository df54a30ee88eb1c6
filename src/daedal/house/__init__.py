"""The models that come with the package: one folder each, with its card."""
