"""Results → JSON with a schema version, for machines, and tables, for people."""
