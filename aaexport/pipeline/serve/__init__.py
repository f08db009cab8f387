"""Model folders → a live service whose answers are proved, kept right and drained (`aaexport serve`)."""
