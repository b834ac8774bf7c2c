"""The HTML report of a study, its tables and its Markdown page."""
