"""What an API server answers when it refuses: an HTTP code and a Status object, worded as the real one words it.

Source: https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md
"""

from collections.abc import Sequence

from fake_kubernetes.objects import Json

KINDS = {"pods": "Pod", "events": "Event", "namespaces": "Namespace"}


class ApiError(Exception):
    """A refusal, with the HTTP `code` and the machine-readable `reason` of the Status."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message

    def status(self) -> Json:
        """Return the Status object."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }


def bad_request(message: str) -> ApiError:
    """Return 400, for what can't be read."""
    return ApiError(400, "BadRequest", message)


def forbidden(resource: str, name: str, why: str) -> ApiError:
    """Return 403, for what may not be done."""
    what = f'{resource} "{name}"' if name else resource
    return ApiError(403, "Forbidden", f"{what} is forbidden: {why}")


def not_found(resource: str, name: str) -> ApiError:
    """Return 404."""
    return ApiError(404, "NotFound", f'{resource} "{name}" not found')


def already_exists(resource: str, name: str) -> ApiError:
    """Return 409, for a name that is taken."""
    return ApiError(409, "AlreadyExists", f'{resource} "{name}" already exists')


def invalid(resource: str, name: str, problems: Sequence[str]) -> ApiError:
    """Return 422, for what can be read but makes no sense; all problems at once."""
    listed = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
    return ApiError(422, "Invalid", f'{KINDS[resource]} "{name}" is invalid: {listed}')
