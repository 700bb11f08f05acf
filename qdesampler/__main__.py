"""`python -m qdesampler`: the command line."""

import sys

from qdesampler.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
