"""Model organisms of alignment faking: build, monitor, mitigate in RL, and see where that fails."""

__version__ = "0.1.0"
