"""Register: publish a verified model under its digest, and give it a number and the alias `challenger`."""

from components.register.register import Registered, register

__all__ = ["Registered", "register"]
