"""Pictures: photos with their CAMs and masks, curves, and maps of regions."""
