"""From manifests and their Parquet files in S3 into the tables of a warehouse."""
