"""From notebooks to something to read: run them in order, make their outputs repeatable, set them as pages.

    outcomes = run(notebooks(["10"]), parameters={"profile": "quick"}, out=home.REPORT / "notebooks", console=console)
    site([o.path for o in outcomes if o.path], home.REPORT)
"""

from lib.report.execute import Outcome, notebooks, run, verdict
from lib.report.normal import normalise
from lib.report.page import single, site

__all__ = ["Outcome", "normalise", "notebooks", "run", "single", "site", "verdict"]
