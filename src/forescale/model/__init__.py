"""The model family: a Qwen3-shaped decoder that reads text and pictures in any order, and the rules by which it scales."""
