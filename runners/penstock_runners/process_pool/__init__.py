"""The parts of the process runner: one pipe a worker, and one thread here that serves all of them.

*In the driver*, `registry` keeps the pools of this process, `pool` holds a pool's one thread and
decides what happens, `workers` is one worker process as the driver sees it, `jobs` are the attempts
a pool holds, `batching` says how many go together, `memory` looks at what workers use, and
`endings` is what is reported of attempts that found no end.

*In the worker*, `child` is what runs, `errors` makes exceptions fit to travel.

*Between the two*, `frames` is what stands on the pipes, `slots` the shared memory in which a worker
says what it is at, and `shipping` and `culprit` are how things are pickled, and what is said of
those that cannot be. These must import quickly, and nothing of `penstock` but in the driver: a
worker would spend more on importing that than on anything else.
"""
