"""forescale: train the small ones, know the big one."""

import os

__version__ = "0.1.0"

# GNU OpenMP reads this when torch is loaded, so it has to stand here. By default its threads spin at barriers for milliseconds,
# and burn the core that the thread they wait for has lost to another program; without spinning an idle machine is half as fast
# again slower. A thousand turns are between (docs/log.md, benchmarks/busy.py). What the user has set stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
