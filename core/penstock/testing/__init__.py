"""What tests of flows and of task runners need; it ships, and needs no test framework.

`ManualTaskRunner` and `ManualClock` take the place of workers and of time. The suite that every
task runner passes is `penstock.testing.conformance`, which needs pytest and so is not imported
here.
"""

from __future__ import annotations

from penstock.testing.manual import ManualClock, ManualTaskRunner

__all__ = ["ManualClock", "ManualTaskRunner"]
