"""An installable package with plug-ins of crypsis: one file per plug-in, each named in pyproject.toml."""
