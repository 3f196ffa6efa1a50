"""Networks with fresh weights, of any form, for the tests."""

from typing import Any

from models.checkpoint import build_network, network_class


def built(name: str, form: str = "paper", **options) -> Any:
    """The network `name` (as in checkpoints) of a form, with its config's `options`."""
    return build_network(name, network_class(name, form).Config(form=form, **options))
