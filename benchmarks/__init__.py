"""Measured claims about speed: `python -m benchmarks.run [--quick]`, results in `benchmarks/results/`."""
