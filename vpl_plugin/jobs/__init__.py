"""What commands do on a user's own photos: CAMs of a folder, and a trained decoder's label maps."""
