"""Records of any kind (json, jsonl, csv, parquet) as items: columns by name, and rows of other frameworks by preset."""
