"""The exceptions that a user can cause, and nothing else.

```
ParityError                 every mistake that the command line answers with one line and exit status 2
├── ProfileError            a HyperProfile that is missing, malformed or names an unknown key or value
├── ConfigError             a model or component configuration that is unknown or inconsistent
├── WeightsError            weights that do not map one to one, or hold NaN or infinity
├── CaseError               a case that cannot be built from its description
├── TargetError             a target that no suite knows, or a file or module that holds no pair
├── GoldenError             a golden file that cannot be read or understood
├── CheckpointError         a checkpoint that cannot be opened safely, or is no model that is known
│   └── NoTensorsError      one that can be read, and holds no tensor
├── OutputError             a report folder that cannot be written
├── JournalError            a journal of finished work that is of other code or arguments, or cannot be read
│   ├── CalibrationError    that of a calibration
│   └── ResumeError         that of a run
├── ReportError             a report's files that are missing, broken, of another version or of different runs
├── GateError               a run, a baseline, a ledger or a history that cannot be read or understood
│   └── NothingToJudgeError one that can be read, and holds nothing to compare
├── WorkerError             a worker process that ended by itself
├── PairingError            a rename that leads nowhere, or modules described in contradiction
├── ReplayError             a bundle that cannot be read, was changed, or cannot be run again
├── CaptureError            a model whose calls cannot be captured as they are: compiled, traced, captured already
│   └── SelectionError      a glob that names no module
├── Float64ContextError      float64_forms() where it would silently do nothing, or a call that it cannot lift
├── DeviceError             a device that is not there, or constants that belong to another one
├── InexactArithmeticError  a device that does not round float32 as double-float arithmetic needs it
└── NotImplementedYetError  a knob that is defined, validated and not built yet
```

A message says what was wrong, what was got, what is allowed and what to do.
"""

from __future__ import annotations


class ParityError(Exception):
    """Base of every error that a user's input can cause."""


class ProfileError(ParityError):
    """A HyperProfile cannot be found, read or validated."""


class ConfigError(ParityError):
    """A model or component configuration holds an unknown key, an unknown value or a contradiction."""


class WeightsError(ParityError):
    """A state dict does not map one to one onto the model, or holds values that are not finite."""


class CaseError(ParityError):
    """A case description cannot be turned into arrays."""


class TargetError(ParityError):
    """A target is not known to any suite."""


class GoldenError(ParityError):
    """A golden file cannot be read, or describes something that is not known."""


class CheckpointError(ParityError):
    """A checkpoint cannot be read without risk, is not what it declares, or is no whole model."""


class NoTensorsError(CheckpointError):
    """A checkpoint can be read, and holds no tensor."""


class OutputError(ParityError):
    """A report cannot be written where it was asked for."""


class ReportError(ParityError):
    """The files of a report cannot be read, are of another version, or do not belong to one run."""


class JournalError(ParityError):
    """A journal of finished work cannot be read, or belongs to other work."""


class CalibrationError(JournalError):
    """The log of a calibration cannot be read, or belongs to another calibration."""


class ResumeError(JournalError):
    """The journal of a run cannot be read, or belongs to another run."""


class GateError(ParityError):
    """A run, a baseline, a ledger or a history cannot be read, or is not what it says."""


class NothingToJudgeError(GateError):
    """A run or a baseline can be read, and holds nothing that could be compared."""


class WorkerError(ParityError):
    """A worker process ended before it answered: killed from outside, or for memory."""


class PairingError(ParityError):
    """A rename matches no module or leads to none, or a module's description contradicts itself."""


class ReplayError(ParityError):
    """A bundle cannot be read, is not what it says, or cannot be run again."""


class CaptureError(ParityError):
    """The calls of a model's modules cannot be captured: it is compiled, traced or captured already."""


class SelectionError(CaptureError):
    """A glob over the names of modules is malformed, or matches none of them."""


class Float64ContextError(ParityError):
    """The float64 context is entered, or something is called inside it, where MLX would compute in float32 unseen."""


class NotImplementedYetError(ParityError):
    """A knob's value is defined by the specification and not built yet."""


class DeviceError(ParityError):
    """A device is unknown or not there, or a file of constants belongs to another one."""


class InexactArithmeticError(ParityError):
    """A device fuses, reorders or flushes float32 operations, so that double-float arithmetic would be wrong unseen."""
