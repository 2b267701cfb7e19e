"""A mirror of the engine's paged KV cache: how many blocks the admitted pairs can come to need.

Rows with equal prefixes share their full blocks, as the engine's prefix cache makes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence


class BlockBudget:
    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._shared: Counter[int] = Counter()
        self._num_own = 0
        self._taken: dict[Hashable, tuple[set[int], int]] = {}

    def worst_case(self, prompts: Sequence[list[int]], num_new: int) -> int:
        """Blocks of one pair that is alone in the engine."""
        keys, num_own = self._blocks(prompts, num_new)
        return len(keys) + num_own

    def fits(self, prompts: Sequence[list[int]], num_new: int) -> bool:
        keys, num_own = self._blocks(prompts, num_new)
        num_added = num_own + sum(key not in self._shared for key in keys)
        return len(self._shared) + self._num_own + num_added <= self.num_blocks

    def num_uncached(self, prompts: Sequence[list[int]]) -> int:
        """Prompt tokens of a pair outside blocks that admitted pairs hold, or that its rows share."""
        earlier: set[int] = set()
        num_uncached = 0
        for prompt in prompts:
            keys = self._keys(prompt)
            is_new = (key not in self._shared and key not in earlier for key in keys)
            num_uncached += len(prompt) - next((i for i, new in enumerate(is_new) if new), len(keys)) * (
                self.block_size
            )
            earlier.update(keys)
        return num_uncached

    def take(self, owner: Hashable, prompts: Sequence[list[int]], num_new: int) -> None:
        keys, num_own = self._blocks(prompts, num_new)
        self._taken[owner] = keys, num_own
        self._shared.update(keys)
        self._num_own += num_own

    def give(self, owner: Hashable) -> None:
        keys, num_own = self._taken.pop(owner, (set(), 0))
        for key in keys:
            self._shared[key] -= 1
            if not self._shared[key]:
                del self._shared[key]
        self._num_own -= num_own

    def _blocks(self, prompts: Sequence[list[int]], num_new: int) -> tuple[set[int], int]:
        """Keys of the full prompt blocks, and the number of blocks that no other row can share."""
        keys: set[int] = set()
        num_own = 0
        for prompt in prompts:
            of_prompt = self._keys(prompt)
            keys.update(of_prompt)
            num_own += -(-(len(prompt) + num_new) // self.block_size) - len(of_prompt)
        return keys, num_own

    def _keys(self, prompt: list[int]) -> list[int]:
        """One key per full block: equal for prompts that agree up to the block's end."""
        keys, key = [], 0
        for end in range(self.block_size, len(prompt) + 1, self.block_size):
            key = hash((key, *prompt[end - self.block_size : end]))
            keys.append(key)
        return keys
