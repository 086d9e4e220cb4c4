"""All definitions as names of a module, where Feast's own command line looks for them."""

from __future__ import annotations

from feature_repo.definitions import definitions
from slipway.settings import load_settings

globals().update({f"{type(item).__name__}_{item.name}": item for item in definitions(load_settings())})
