"""Texts with places: YAML as nodes that know file, line and column; bundles and their imports; collected mistakes."""
