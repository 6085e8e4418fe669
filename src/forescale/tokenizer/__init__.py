"""Byte-level BPE: lossless on any bytes, with special tokens that no text can spell."""
