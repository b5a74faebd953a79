"""Shares in per cent, written one way everywhere."""


def percent(share: float, digits: int = 0, sign: bool = False) -> str:
    """A share as text: 0.123 is `12%`; with `sign`, what is above zero has a plus. What rounds to zero has no sign."""
    text = f"{share:{'+' if sign else ''}.{digits}%}"
    return text.lstrip("+-") if not text.strip("+-0.%") else text
