"""Scoring of any number of pictures: from folders, lists, Parquet, tar shards and stores to shards of results."""
