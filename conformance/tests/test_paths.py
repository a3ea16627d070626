"""The suite on every path that runs here: its sample, or all of it with --full."""

import pytest

from isostep_conformance.test_conformance import *  # noqa: F403

#: Not for want of a package: the paths that are there without the others are among those that are tested with them.
pytestmark = pytest.mark.whole
