"""``python -m mpsearch``: the command line."""

from mpsearch.cli import main

if __name__ == "__main__":
    main()
