"""Which examples are alike: embeddings of their instructions, nearest neighbours, and probes chosen among these."""
