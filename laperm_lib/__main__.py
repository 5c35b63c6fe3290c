"""`python -m laperm_lib`: the command line, which `laperm_lib.command_line` describes."""

import sys

from laperm_lib.command_line import main

if __name__ == "__main__":
    sys.exit(main())
