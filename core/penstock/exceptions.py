"""Every error that Penstock itself raises, in one tree.

    PenstockError
    ├── you called us wrongly ─────────────────────────────────────────────
    │   ├── DefinitionError (ValueError)      a decorator was given something unusable
    │   │   ├── ReservedArgumentError (TypeError)  a function takes `return_state` or `wait_for`
    │   │   ├── HookSignatureError (TypeError)     a hook that could never be called
    │   │   └── NameTemplateError             a run-name template that cannot be filled in
    │   ├── ParameterTypeError (TypeError)    a flow parameter does not fit its annotation
    │   ├── UnhashableInputError (TypeError)  a cache key needs a value that has no stable hash
    │   ├── SerializationError (TypeError)    a result cannot be stored by its serializer
    │   ├── UnsafeStorageError (PermissionError)   results are where others could change them
    │   ├── MappingLengthMismatch (ValueError)     `.map()` over iterables of unequal length
    │   ├── MappingMissingIterable (ValueError)    `.map()` with nothing to map over
    │   ├── MissingContextError (RuntimeError)     asked for a run where there is none
    │   ├── TaskRunnerNotFound (ValueError)   no runner goes by that name
    │   ├── RunnerCannotError (ValueError)    the runner cannot do what the task asks for
    │   ├── SettingsError (ValueError)        a setting has an impossible value
    │   ├── FutureCycleError (RuntimeError)   a run would wait for itself
    │   └── NotSupportedError (RuntimeError)  a name of Prefect's that needs its server
    ├── your task failed, and there is no exception of its own to raise ───
    │   ├── FailedRun                         a run that failed by a returned or rewritten state
    │   ├── UpstreamTaskError                 a run whose input failed; the cause is chained
    │   ├── UnobservedFailureError            a flow in which failures were looked at by nobody
    │   ├── CancelledRun                      the run was cancelled, so there is no result
    │   ├── TaskRunTimeoutError (TimeoutError)
    │   ├── FlowRunTimeoutError (TimeoutError)
    │   ├── PauseTimeoutError (TimeoutError)  nobody resumed a paused flow in time
    │   └── RemoteTaskError                   stands in for an exception that could not travel
    └── the ground gave way ───────────────────────────────────────────────
        ├── CrashedRun                        the run ended by an outside cause
        │   └── WorkerLost                    its worker died
        ├── RunnerBroken                      the task runner as a whole is gone
        ├── IllegalMove                       a state change outside the table (a handler's bug?)
        └── UnfinishedRun                     asked for the result of a run that has none yet

A task's own exception is never wrapped: it is raised again as it was.
"""

from __future__ import annotations

__all__ = [
    "CancelledRun",
    "CrashedRun",
    "DefinitionError",
    "FailedRun",
    "FlowRunTimeoutError",
    "FutureCycleError",
    "HookSignatureError",
    "IllegalMove",
    "MappingLengthMismatch",
    "MappingMissingIterable",
    "MissingContextError",
    "NameTemplateError",
    "NotSupportedError",
    "ParameterTypeError",
    "PauseTimeoutError",
    "PenstockError",
    "RemoteTaskError",
    "ReservedArgumentError",
    "RunnerBroken",
    "RunnerCannotError",
    "SerializationError",
    "SettingsError",
    "TaskRunTimeoutError",
    "TaskRunnerNotFound",
    "UnfinishedRun",
    "UnhashableInputError",
    "UnobservedFailureError",
    "UnsafeStorageError",
    "UpstreamTaskError",
    "WorkerLost",
]


class PenstockError(Exception):
    """Base of every error raised by Penstock itself."""


# --- you called us wrongly -------------------------------------------------------------


class DefinitionError(PenstockError, ValueError):
    """A decorator or `with_options` was given something that cannot work."""


class ReservedArgumentError(DefinitionError, TypeError):
    """A task's or flow's function takes an argument whose name the call itself uses."""


class HookSignatureError(DefinitionError, TypeError):
    """A hook, handler or policy function asks for arguments that nobody passes."""


class NameTemplateError(DefinitionError):
    """A run-name template names something that is not a parameter, or cannot be formatted."""


class ParameterTypeError(PenstockError, TypeError):
    """A flow parameter does not fit its annotation."""


class UnhashableInputError(PenstockError, TypeError):
    """Part of a cache key has no stable hash; the message says which, and three ways out."""


class SerializationError(PenstockError, TypeError):
    """A value cannot be turned into bytes, and back, by the serializer chosen for it."""


class UnsafeStorageError(PenstockError, PermissionError):
    """Other users could change the stored results; reading one may run what they put there."""


class MappingLengthMismatch(PenstockError, ValueError):
    """`.map()` was given iterables of unequal lengths."""


class MappingMissingIterable(PenstockError, ValueError):
    """`.map()` was given nothing to map over."""


class MissingContextError(PenstockError, RuntimeError):
    """Something that only exists inside a run was asked for outside of one."""


class TaskRunnerNotFound(PenstockError, ValueError):
    """No task runner goes by the given name; the message lists those that do."""


class RunnerCannotError(PenstockError, ValueError):
    """A task asks for something that its task runner does not do; nothing was submitted."""


class SettingsError(PenstockError, ValueError):
    """A setting, from the environment, a file or code, has a value it cannot take."""


class FutureCycleError(PenstockError, RuntimeError):
    """A run would wait for a future that waits for this very run."""


class NotSupportedError(PenstockError, RuntimeError):
    """A feature of the same name exists elsewhere, and cannot exist without a server."""


# --- your task failed, and there is no exception of its own to raise -------------------


class FailedRun(PenstockError):
    """A run failed without an exception: a `Failed` state was returned, or put in its place."""


class UpstreamTaskError(PenstockError):
    """A run never began since one of its inputs failed; `__cause__` is that failure."""


class UnobservedFailureError(PenstockError):
    """A flow ended with failures that nobody looked at; `__cause__` is the first of them."""


class CancelledRun(PenstockError):
    """The run was cancelled: there is no result to give."""


class TaskRunTimeoutError(PenstockError, TimeoutError):
    """A task run went over its `timeout_seconds`."""


class FlowRunTimeoutError(PenstockError, TimeoutError):
    """A flow run went over its `timeout_seconds`."""


class PauseTimeoutError(PenstockError, TimeoutError):
    """A paused flow run was not resumed in time."""


class RemoteTaskError(PenstockError):
    """Stands in for a task's exception that could not be carried to this process."""


# --- the ground gave way ---------------------------------------------------------------


class CrashedRun(PenstockError):
    """A run was ended by something outside of its own code."""


class WorkerLost(CrashedRun):
    """The worker that carried a run died."""


class RunnerBroken(PenstockError):
    """A task runner can carry no more work."""


class IllegalMove(PenstockError):
    """A run was asked to change to a state that the table of moves does not allow."""


class UnfinishedRun(PenstockError):
    """The result of a state was asked for that is not final and has none."""
