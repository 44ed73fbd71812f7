"""What Guardhouse costs: `make bench` measures it on real processes and databases. docs/benchmarks.md says how."""
