"""A file × a load → latencies: worker processes that take turns, their queries, and what is compared."""
