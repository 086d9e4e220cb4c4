"""verify: gates that answer pass, fail or inconclusive with evidence; anything but pass stops the line."""

from components.verify.checks import Check, Evidence, check, registered, run_checks, select
from components.verify.component import Verified, verify

__all__ = ["Check", "Evidence", "Verified", "check", "registered", "run_checks", "select", "verify"]
