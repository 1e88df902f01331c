"""Where results go besides the job directory: files, directories of partitioned Parquet, Delta and Iceberg tables."""
