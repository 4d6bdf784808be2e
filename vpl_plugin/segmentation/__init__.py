"""Phase 2: a decoder on the frozen encoder, its training and its use (Eq. 12-14)."""
