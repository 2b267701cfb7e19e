"""Money for requests: what was spent, what may still be, and the cap that is never passed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class CostCap:
    """Prices are per million tokens; without `limit` all may be spent. One event loop, so without locks."""

    price_in: float = 0.0
    price_out: float = 0.0
    limit: float | None = None
    spent: float = 0.0
    reserved: float = 0.0

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6

    def reserve(self, cost: float) -> bool:
        """Set the most that a request can cost aside; False where that could pass the limit."""
        # A hair more than the limit is the rounding of sums, not money.
        if self.limit is not None and self.spent + self.reserved + cost > self.limit * (1 + 1e-9):
            return False
        self.reserved += cost
        return True

    def settle(self, reserved: float, cost: float) -> None:
        """What was set aside is free again, and what it really cost is spent."""
        self.reserved -= reserved
        self.spent += cost
