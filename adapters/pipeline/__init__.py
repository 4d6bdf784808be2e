"""What adapters are made of: stages, the run they are given, and options from their settings."""
