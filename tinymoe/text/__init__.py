"""Text: tokenizers, corpora, and packing documents into rows."""
