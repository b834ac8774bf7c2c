"""``python -m crypsis``."""

from crypsis.cli import main

main()
