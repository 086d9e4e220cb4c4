"""What features are about: the four things that a flight is known by before it leaves."""

from __future__ import annotations

from feast import Entity, ValueType


def _entity(name: str, description: str) -> Entity:
    return Entity(name=name, join_keys=[name], value_type=ValueType.STRING, description=description)


carrier = _entity("carrier", "The airline's two-letter code, such as UA.")
origin = _entity("origin", "The airport of departure: EWR, JFK or LGA.")
dest = _entity("dest", "The airport of arrival, such as ORD.")
tailnum = _entity("tailnum", "The plane's tail number, such as N14228.")

ENTITIES = {entity.name: entity for entity in (carrier, origin, dest, tailnum)}
