"""The far side: what a worker in another process executes, to an ending that always travels.

`running` performs one attempt: it calls the function (`calling`) in a surrounding that says which
run this is (`here`), sends its log records and prints home (`output`, `prints`), and packs what
comes of it (`packing`, `errors`; `culprit` says what cannot be packed). Context variables cross
by `variables`. In a process of its own, an attempt sees only its `devices`.

This package imports the standard library and cloudpickle, and its own modules by relative imports
only. So it is cheap to import, and can be sent as source, under another name, to a worker that
has no Penstock. Nothing here decides anything: states, retries and limits are the driver's.
"""
