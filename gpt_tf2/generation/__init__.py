"""Generation: sampling rules, the key-value cache, the decoder and the loop over it."""
