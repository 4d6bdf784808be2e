"""The command line: ``vpl`` and its sub-commands."""
