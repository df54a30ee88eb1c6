"""From text on disk to rows of token ids: tokenizers, chat templates, datasets, packing."""
