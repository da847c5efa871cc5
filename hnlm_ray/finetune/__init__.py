"""The collaborative fine-tune of the encoder and the hard-negative embeddings it makes (METHOD.md sections 3 and 4)."""
