"""The exercises' checks, a module per lesson. `check_…(answer)` returns a Verdict: right, or what is wrong."""

from .verdict import Verdict

__all__ = ["Verdict"]
