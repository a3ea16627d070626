"""The suite on every path that runs here: its sample, or all of it with --full."""

from isostep_conformance.test_conformance import *  # noqa: F403
