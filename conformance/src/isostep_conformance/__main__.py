"""``python -m isostep_conformance`` is the command ``isostep-conformance``."""

import sys

from isostep_conformance.cli import main

sys.exit(main())
