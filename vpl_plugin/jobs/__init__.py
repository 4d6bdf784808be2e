"""What a trained decoder does on a user's photos, from listing them to files and scores."""
