"""The ways to write each layer are timed, and the winners recorded for the export."""
