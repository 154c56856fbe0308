"""What Pelagos costs, measured beside a floor or a peer: ``python -m benchmarks``."""
