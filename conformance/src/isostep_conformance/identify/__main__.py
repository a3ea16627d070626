"""``python -m isostep_conformance.identify``."""

import sys

from isostep_conformance.identify.command import main

if __name__ == "__main__":
    sys.exit(main())
