"""``python -m zmqkit``: the same as the command `zmqkit`."""

import sys

from zmqkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
