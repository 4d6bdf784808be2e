"""What measures the method: the demo, the ablations, Table 3."""
