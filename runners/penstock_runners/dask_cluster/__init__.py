"""The ground under the Dask runner: which cluster, how to reach it, whether it fits.

`where` says which cluster is meant, and nothing is connected yet. `connection` opens what is
needed and closes what it opened. `probing` finds out why a scheduler cannot be reached. `local`
and `host` are a cluster of our own on this machine: a process of its own that runs the scheduler
and looks after the workers; `lifeline` ties the workers to it. `preflight` compares versions.
"""
