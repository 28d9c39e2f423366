"""One loop that trains every stage: optimizer, state on disk, log."""
