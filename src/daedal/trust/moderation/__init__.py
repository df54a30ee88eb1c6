"""Texts judged by category before and while they are let out: a linear classifier, and rules for
personal data."""
