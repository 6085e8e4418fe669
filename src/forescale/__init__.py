"""forescale: train the small ones, know the big one."""

__version__ = "0.1.0"
