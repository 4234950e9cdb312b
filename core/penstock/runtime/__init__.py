"""What the code of a run may ask about it: `penstock.runtime.flow_run` and `.task_run`."""

from penstock.runtime import deployment, flow_run, task_run

__all__ = ["deployment", "flow_run", "task_run"]
