"""What the suites on virtual machines share."""

import pytest


def selected(request: pytest.FixtureRequest) -> list:
    """The checks of the module that asks which this run of the tests wants, in their order."""
    items = [item for item in request.session.items if getattr(item, "module", None) is request.module]
    return [item.callspec.params["check"] for item in items if "check" in item.callspec.params]
