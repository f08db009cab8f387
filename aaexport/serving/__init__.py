"""A model folder → a live service and what asks it: repository, engine, protocol, client. No torch in here."""
