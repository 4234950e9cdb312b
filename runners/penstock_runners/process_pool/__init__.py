"""The parts of the process runner: one pipe a worker, and one thread here that serves all of them.

*In the driver*, `registry` keeps the pools of this process, and `pool` holds a pool's one thread
and its orders. `crew` are its workers, each of them one of `workers`. `jobs` are the attempts that
a pool holds, `feeding` makes `batches` of them, and `parcels` is what a worker is sent once.
`memory` looks at what workers use, `outcomes` says what their answers mean, and `endings` what is
reported of attempts that found no end.

*In the worker*, `child` is what runs: it takes orders, and has `penstock.worker` carry them out.

*Between the two*, `frames` is what stands on the pipes, `slots` the shared memory in which a worker
says what it is at, and `segments` that which holds a constant for all of them. These must import
quickly, and nothing of `penstock` but `penstock.worker`: a worker would spend more on importing
that than on anything else.
"""
