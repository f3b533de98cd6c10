"""Catalogs as data: the YAML files that Intake opens."""
