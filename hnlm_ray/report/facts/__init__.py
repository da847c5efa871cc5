"""What report.json holds: one file per part of the run, each a function of the artifacts that stand."""
