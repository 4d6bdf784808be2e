"""Rows I to VI of the paper's Table 3, and Fig. 4, on a data set."""
