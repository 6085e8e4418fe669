"""Safety: how a model answers what it should refuse, what it should not, and what lures it. docs/safety.md describes it."""
