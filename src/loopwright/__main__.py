"""`python -m loopwright` is the same command."""

from loopwright.cli.main import main

if __name__ == "__main__":
    main()
