"""What came out: metrics against the truth, and the report page."""
