"""Timings, as ratios measured in one run on one machine. `make bench` runs them all; see docs/performance.md."""
