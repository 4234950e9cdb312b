"""One choice for all tests: what hypothesis draws is the same in every run, on every machine."""

import os
import signal

from hypothesis import settings

settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Inherited from a shell that runs this in the background: Ctrl-C is what some tests are about.
    signal.signal(signal.SIGINT, signal.default_int_handler)
