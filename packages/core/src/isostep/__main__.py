"""``python -m isostep`` is the command ``isostep``."""

import sys

from isostep.cli import main

sys.exit(main())
