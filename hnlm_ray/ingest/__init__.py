"""Raw data in: readers, cleaning, k-core, splits, and the Parquet data set every later stage reads."""
