"""Measuring restored pictures, and comparing methods on the test sets of the paper.

`metrics.toml` is the table of metrics, `published.toml` the paper's figures. From the bottom up:
metric_table, pairs, statistics, published, artifacts and recognition; data_sets and measures; scores and
methods; tables and restoring; comparison and charts; looking.
"""
