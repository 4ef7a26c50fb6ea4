"""The errors that mpsearch raises, each a message of one line for the person who can mend it, but where it says more.

MpsearchError
├── ModelError (ValueError)              a model file that cannot be read or understood
│   └── UnsupportedOperatorError         operators that cannot be executed, all of them named
├── DataError (ValueError)               calibration or evaluation data that do not fit
├── SchemeError (ValueError)             a spec or scheme that contradicts itself
├── SpaceError (ValueError)              a search space that is wrong or empty
├── DeviceError (ValueError)             a device file that is wrong
├── UnknownNameError (LookupError)       a name that nothing is registered under
├── DuplicateNameError (ValueError)      a second owner of a registered name
├── PluginError (TypeError)              a plug-in that is not declared as its kind
├── SettingError (ValueError)            a plug-in's own setting that is unknown or of a wrong kind
├── ProblemError (ValueError)            a search problem that is malformed, or beyond a method
├── MetricError (ValueError)             a sensitivity metric that cannot do what was asked of it
├── InfeasibleError (ValueError)         limits that no assignment meets
├── NumericsError (ArithmeticError)      NaN, Inf or overflow, with the tensor or layer named
│   └── LostError                        a loss that cannot be had: its workers died of it
├── ArtifactError (ValueError)           a file between stages that is damaged or from elsewhere
├── PlanError (ValueError)               a plan that does not fit its model or its target
│   └── RefusedPlanError                 layers that a target does not take: a line for each
├── JobError (ValueError)                a job file or run folder that is wrong
├── ArgumentError (TypeError)            an argument of another kind, such as two that were swapped
├── OutputExistsError (FileExistsError)  an output that would be overwritten
└── MissingExtraError (ImportError)      an optional dependency that is not installed
"""


class MpsearchError(Exception):
    """Root of every error that mpsearch raises on purpose."""


class ModelError(MpsearchError, ValueError):
    """The model file cannot be read, or says something that cannot hold."""


class UnsupportedOperatorError(ModelError):
    """The model uses operators that cannot be executed."""


class DataError(MpsearchError, ValueError):
    """The data do not fit the model or are not finite."""


class SchemeError(MpsearchError, ValueError):
    """A format, spec or scheme contradicts itself or its tensor."""


class SpaceError(MpsearchError, ValueError):
    """A search space is malformed or leaves a group without a scheme."""


class DeviceError(MpsearchError, ValueError):
    """A device description is malformed or lacks what was asked of it."""


class UnknownNameError(MpsearchError, LookupError):
    """Nothing is known under this name."""


class DuplicateNameError(MpsearchError, ValueError):
    """A registered name would get a second owner."""


class PluginError(MpsearchError, TypeError):
    """What is registered is not declared as the kind that it is registered under."""


class SettingError(MpsearchError, ValueError):
    """A setting of a plug-in's own is unknown or has a value of a wrong kind."""


class ProblemError(MpsearchError, ValueError):
    """A search problem contradicts itself, or a method cannot solve it."""


class MetricError(MpsearchError, ValueError):
    """A sensitivity metric cannot do what was asked of it."""


class InfeasibleError(MpsearchError, ValueError):
    """No assignment meets the limits."""


class NumericsError(MpsearchError, ArithmeticError):
    """A tensor holds NaN or Inf, or overflows its format."""


class LostError(NumericsError):
    """A loss cannot be had: the processes that measured it died, more than once."""


class ArtifactError(MpsearchError, ValueError):
    """A file between two stages is damaged, of another version or of another run."""


class PlanError(MpsearchError, ValueError):
    """A plan does not fit the model, the target or this version."""


class RefusedPlanError(PlanError):
    """A target does not take layers as the plan has them; the message has a line for each."""


class JobError(MpsearchError, ValueError):
    """A job file or a run folder is malformed or belongs to another job."""


class ArgumentError(MpsearchError, TypeError):
    """An argument is of another kind than the function takes."""


class OutputExistsError(MpsearchError, FileExistsError):
    """An output exists and would be overwritten."""


class MissingExtraError(MpsearchError, ImportError):
    """An optional dependency is missing; the message says which extra brings it."""


def check_argument(name: str, value: object, kind: type, how: str = "") -> None:
    """Check that the argument ``name`` is a ``kind``; ``how`` says where one comes from.

    Raises:
        ArgumentError: It is something else.
    """
    if not isinstance(value, kind):
        raise ArgumentError(
            f"`{name}` must be a {kind.__name__}{f', {how}' if how else ''}; got a {type(value).__name__}"
        )
