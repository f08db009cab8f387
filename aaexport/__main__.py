"""`python -m aaexport` is `aaexport`."""

from aaexport.cli.main import main

if __name__ == "__main__":
    main()
