"""``python -m motion_app``: the command line."""

import sys

from motion_app.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
