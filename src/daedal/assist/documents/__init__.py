"""Documents of a folder: read, cut into passages, found again, and answered from with evidence."""
