"""Recorded facts on published releases, as JSON."""
