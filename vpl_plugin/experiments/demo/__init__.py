"""Text against vision prototypes on photographs that packages ship."""
