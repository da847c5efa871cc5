"""The report: what a run did, read, made and cost, in one HTML page and one JSON file."""
