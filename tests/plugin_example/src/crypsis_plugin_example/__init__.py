"""An installable package with plug-ins of crypsis: one file a plug-in, each named in pyproject.toml."""
