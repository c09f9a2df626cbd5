"""The exercises' checks, a module per lesson. `check_…(answer)` returns a Verdict that says what is wrong, or well done."""

from .verdict import Verdict

__all__ = ["Verdict"]
