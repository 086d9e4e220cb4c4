"""The one exception tree. Catch at the level whose remedy you share.

SlipwayError
├── SettingsError              a setting is wrong; says which, where it came from, what is allowed
├── ContractError              a model contract cannot be read or does not hold
│   └── ContractMismatch       contract, graph, metadata or digest disagree: the model must not be served
├── ObjectError                S3
│   ├── ObjectNotFound
│   ├── ObjectConflict         a conditional write lost: somebody else wrote first
│   ├── ObjectCorrupt          the bytes are not those that the digest promises
│   ├── ObjectDenied           wrong credentials or no right
│   └── ObjectStoreUnavailable no answer within the bounds, after retries
├── PlatformError              the embedded platform
│   ├── PlatformDown           a command needs it and it is not up
│   ├── PlatformBusy           another up or down holds the lock
│   ├── ServerFailed           a server did not start or did not get healthy
│   └── StateDamaged           what is on disk cannot be mended without the user
├── DataError                  rows or files that break their schema
├── FeatureError               the feature store
│   ├── FeatureSourceError     an offline source misses a column, has a wrong type or cannot be read
│   ├── FeatureSchemaError     a stored value was written under another schema
│   └── OnlineStoreUnavailable
├── RegistryError              the model registry
│   └── ApprovalMissing        a production deploy without a named approval
├── GateNotPassed              a gate answered fail or inconclusive; the line stops
├── DeployError                a deployment did not get ready; the old version serves on
└── ServingError               the runtime; carries the HTTP status that tells the caller
    ├── InvalidRequest         400
    ├── Unauthorized           401: who asks is not known
    ├── Forbidden              403: who asks is known, and may not
    ├── ModelNotFound          404
    ├── PayloadTooLarge        413
    ├── ModelFailed            500
    ├── ModelNotReady          503
    ├── Overloaded             503, with Retry-After
    ├── ServerUnreachable      503: a client got no answer, after retries
    └── DeadlineExceeded       504
"""

from __future__ import annotations

from typing import ClassVar


class SlipwayError(Exception):
    """An error that a user can act on: what happened, where, and what to do about it.

    `exit_code` is what the command line ends with: 1 for failures, 2 for wrong input (as shells use it),
    3 when something that must run does not, 4 when a gate stopped the line.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what = what
        self.where = where
        self.fix = fix
        super().__init__(what)

    def __str__(self) -> str:
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        return text if self.fix is None else f"{text}\n  to mend it: {self.fix}"

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders in the pipelines; keyword arguments are lost without this.
        return (_rebuild, (type(self), self.__dict__.copy()))


def _rebuild(kind: type[SlipwayError], state: dict[str, object]) -> SlipwayError:
    error = kind.__new__(kind)
    Exception.__init__(error, state.get("what"))
    error.__dict__.update(state)
    return error


class SettingsError(SlipwayError):
    exit_code = 2


class ContractError(SlipwayError):
    exit_code = 2


class ContractMismatch(ContractError):
    exit_code = 1


class ObjectError(SlipwayError):
    pass


class ObjectNotFound(ObjectError):
    pass


class ObjectConflict(ObjectError):
    pass


class ObjectCorrupt(ObjectError):
    pass


class ObjectDenied(ObjectError):
    pass


class ObjectStoreUnavailable(ObjectError):
    exit_code = 3


class PlatformError(SlipwayError):
    exit_code = 3


class PlatformDown(PlatformError):
    pass


class PlatformBusy(PlatformError):
    pass


class ServerFailed(PlatformError):
    pass


class StateDamaged(PlatformError):
    pass


class DataError(SlipwayError):
    exit_code = 2


class FeatureError(SlipwayError):
    pass


class FeatureSourceError(FeatureError):
    exit_code = 2


class FeatureSchemaError(FeatureError):
    pass


class OnlineStoreUnavailable(FeatureError):
    exit_code = 3


class RegistryError(SlipwayError):
    pass


class ApprovalMissing(RegistryError):
    exit_code = 4


class GateNotPassed(SlipwayError):
    exit_code = 4


class DeployError(SlipwayError):
    pass


class ServingError(SlipwayError):
    status: ClassVar[int] = 500


class InvalidRequest(ServingError):
    status = 400
    exit_code = 2


class Unauthorized(ServingError):
    status = 401


class Forbidden(ServingError):
    status = 403


class ModelNotFound(ServingError):
    status = 404


class PayloadTooLarge(ServingError):
    status = 413


class ModelFailed(ServingError):
    status = 500


class ModelNotReady(ServingError):
    status = 503


class Overloaded(ServingError):
    status = 503

    def __init__(
        self, what: str, *, where: str | None = None, fix: str | None = None, retry_after: float = 1.0
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.retry_after = retry_after


class ServerUnreachable(ServingError):
    status = 503
    exit_code = 3


class DeadlineExceeded(ServingError):
    status = 504
