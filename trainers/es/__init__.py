"""Evolution strategies on language-model weights: members are seeds, updates are rebuilt from them."""
