"""Parts of networks: sequences in fused calls, embeddings, action distributions, shards of a batch."""
