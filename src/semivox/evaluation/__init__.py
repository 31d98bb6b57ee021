"""Scores of predictions against reference labels, and the statistics that tables of them need."""
