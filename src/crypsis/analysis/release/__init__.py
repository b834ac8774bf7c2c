"""What is shown of the released transcripts: the check of a folder, and recall over steps."""
