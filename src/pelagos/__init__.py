"""Pelagos, a hybrid-cloud control plane: infrastructures from YAML, kept alive across any mix of clouds."""

__all__ = ["__version__"]

__version__ = "0.1.0"
