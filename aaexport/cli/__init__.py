"""The command line: one thin file a command. The only room with click in it."""
