"""What can go wrong with a repository, said once and mapped to what a file system answers."""

from __future__ import annotations

import errno


class CvmfsError(Exception):
    """Base of all errors of this package; its text is one line fit for a user."""

    errno: int = errno.EIO


class Refused(CvmfsError):
    """The repository cannot be trusted: key, signature, whitelist, name, expiry or rollback."""


class Damaged(CvmfsError):
    """Data is not what its hash, its signature or the format promises."""


class Unreachable(CvmfsError):
    """No server gave an answer through any of the proxies."""


class Missing(Unreachable):
    """The servers answer, and say that they do not have the object."""


class Unsupported(CvmfsError):
    """Valid, but beyond this reader: an external file, an unknown schema or algorithm."""


class BadConfiguration(CvmfsError):
    """A setting, a key file or a command-line value is wrong; nothing was tried."""

    errno = errno.EINVAL


class CacheUnusable(CvmfsError):
    """The cache directory cannot be used; nothing in it was touched."""
