"""The one version of all isostep packages."""

VERSION = "0.1.0"
