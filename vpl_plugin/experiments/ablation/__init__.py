"""The paper's ablations (Tables 4-7) and ours, on photos with masks."""
