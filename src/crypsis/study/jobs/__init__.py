"""Single commands on models, monitors and transcripts."""
