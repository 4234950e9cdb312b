"""The engine: how a run gets from Pending to its end.

Theory of operation
-------------------
*The life* of a run (`task_run.py`, `flow_run.py`) is a generator. It decides what happens next
and yields a command for it; it knows no clock, no thread and no runner.

*A driver* performs the commands. There are three ways a run is driven, and one life:

- called directly: `direct.py` performs each command in the calling thread;
- awaited: `async_direct.py` does the same without blocking the event loop;
- submitted: `driver.py` performs what can be done at once, and parks the run where it must wait:
  with the runs that are its inputs, with a timer, or with the dispatcher (`dispatch.py`), which
  admits it as limits and rates allow (`admission.py`), and hands attempts to task runners as fast
  as these want them, and as their resources are free (`resources.py`).

*A series* (`series.py`) stands for the runs of a plain map. It waits with the dispatcher, is handed
out in pieces, and takes their results in rows. One of its items has a life as soon as it has more
to tell than that it returned, or somebody asks for more.

*The loop* (`loop.py`) is where events come in: outcomes from runners, requests from other
threads, timers. Stepping submitted runs takes *the turn*. The thread that owns the root run takes
it whenever it waits inside the library; a standby thread takes it while the owner is busy
elsewhere. Hooks, handlers and other user functions that are not tasks run under the turn, so
they run one at a time, and never in a worker.

    user code -> submit() -> life -> EXECUTE -> dispatch -> TaskRunner.submit()
                               ^                                   |
                               +---- step() <- loop <- report() <--+

*Interrupts* (`interrupts.py`): Ctrl-C and deadlines of the main thread are held back while the
library is at work, and delivered at the next safe place, so that no event is lost to them. The
limits are set in `deadlines.py`; in other threads they raise, by `penstock.strikes`, where that
leaves no lock behind.
"""
