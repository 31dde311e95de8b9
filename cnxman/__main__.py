"""`python -m cnxman` is the command `cnxman`."""

import sys

from cnxman.cli import main

if __name__ == "__main__":
    sys.exit(main())
