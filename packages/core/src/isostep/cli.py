"""The command line, under the name that ``python -m isostep.cli`` and the installed script know it by."""

from __future__ import annotations

import sys

from isostep.commands import main

if __name__ == "__main__":
    sys.exit(main())
