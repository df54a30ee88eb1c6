"""Measures with error bars."""
