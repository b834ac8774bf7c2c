"""Reports on monitors: quality and transfer."""
