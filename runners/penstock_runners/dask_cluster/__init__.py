"""The parts of the Dask runner.

*Which cluster*: `where` says what is meant, and nothing is connected yet; `connection` opens what
is needed and closes what it opened; `probing` finds out why a scheduler cannot be reached; `local`
and `host` are a cluster of our own on this machine, a process that runs the scheduler and looks
after the workers, which `lifeline` ties to it; `demand` lets an adaptive one grow, `scaling` holds
its floor;
`preflight` compares versions.

*In the driver*: `session` is the thread that serves one run and decides everything; `roster` knows
the workers, `lanes` what waits for them, `picking` says what travels together, `letters` packs it,
`wire` is all that is asked of Dask's client, with `news` of workers that come and go; `flight` is
what is on its way, `answers` what comes back, `kept` what stays there; `claims` makes that known
and lets go of what is over; `ends` sees that each attempt has one outcome.

*In the workers*: `far`, which `bundle` sends there as source, with `penstock.worker`.
"""
