"""Every error this project raises on purpose.

DeliveryError
├── InputError            a value that cannot be accepted: the value, what is allowed, where it stood
├── NotFoundError         something named does not exist: what does exist
├── ConflictError         somebody else changed the traffic plan first (compare-and-swap lost)
├── LeaseError            another rollout holds the application, or this one lost it
├── QuarantineError       the release failed before and may not be promoted without an override
├── FrozenError           a freeze window is open: which, and until when
├── UnsupportedError      the driver cannot do what was asked
├── ServingError          a release does not answer, or answers as somebody else
├── UnreachableError      a server this project needs does not answer: which, and how to start it
└── StackError            the local stack cannot start: what to do
"""

from __future__ import annotations

from collections.abc import Iterable


class DeliveryError(Exception):
    """The base of every deliberate error; its text is one line that says what to do next."""


class InputError(DeliveryError):
    """A value that cannot be accepted."""

    @classmethod
    def of(cls, place: str, value: object, allowed: Iterable[object] | str) -> InputError:
        """Build the message from the place, the value and what would have been allowed."""
        text = allowed if isinstance(allowed, str) else ", ".join(str(item) for item in allowed)
        return cls(f"{place}: {value!r} is not allowed; allowed: {text}")


class NotFoundError(DeliveryError):
    """Something named does not exist."""


class ConflictError(DeliveryError):
    """The traffic plan was changed by somebody else since it was read."""


class LeaseError(DeliveryError):
    """Another rollout holds the application, or the lease was lost while working."""


class QuarantineError(DeliveryError):
    """The release failed before; promoting it again needs a named override."""


class FrozenError(DeliveryError):
    """A freeze window is open."""


class UntestedError(DeliveryError):
    """The release asks for an A/B test that it has not come through."""


class UnsupportedError(DeliveryError):
    """The driver cannot do what was asked of it."""


class ServingError(DeliveryError):
    """A release does not answer, or the data path answers with another release."""


class UnreachableError(DeliveryError):
    """A server this project needs does not answer."""


class StackError(DeliveryError):
    """The local stack cannot start or stop."""
