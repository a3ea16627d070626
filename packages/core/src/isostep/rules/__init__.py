"""Update rules, one file each. The folder is the registry: ``NAME.py`` declares ``RULE``."""
