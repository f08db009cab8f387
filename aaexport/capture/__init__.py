"""A module → an exported program: the user's module found and made, captured, saved and read, its failures told."""
