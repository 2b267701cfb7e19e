"""How the examples of a step are shared among workers, and cut into forward passes of similar length."""

from __future__ import annotations

from collections.abc import Sequence

PASS_TOKENS = {"cpu": 20, "cuda": 1024}
"""What one more forward and backward pass costs, in tokens of padding: on a CPU the weights are read twice
more and their gradients added once (20 to 30 tokens, measured with SmolLM2-135M), on a GPU it idles until the
kernels are launched (and weights gathered)."""


def micro_batches(
    lengths: Sequence[int],
    *,
    world: int,
    max_rows: int,
    max_tokens: int = 0,
    pass_tokens: int,
    is_packed: bool = False,
) -> list[list[list[int]]]:
    """For every pass, and in it for every worker, the places in `lengths` of the examples that it takes.

    The longest examples come first and go around the workers, so that all have as much to do in each pass. A
    pass has at most `max_rows` examples per worker and, unless it has one alone or `max_tokens` is 0, so many
    tokens with its padding. Of all such cuts it is the one with the least padding, where a pass costs as much
    as `pass_tokens` tokens of it; packed ones have none. A worker's list is empty where the examples end
    before its turn.
    """
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    rounds = [order[start : start + world] for start in range(0, len(order), world)]
    longest = [lengths[round_[0]] for round_ in rounds]
    # cheapest[n]: of the first n rounds, with the start of the last pass.
    cheapest: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(rounds) + 1):
        options = []
        for start in range(max(0, end - max_rows), end):
            num_tokens = sum(longest[start:end]) if is_packed else (end - start) * longest[start]
            if start == end - 1 or not max_tokens or num_tokens <= max_tokens:
                options.append((cheapest[start][0] + num_tokens + pass_tokens, start))
        cheapest.append(min(options))
    passes: list[list[list[int]]] = []
    end = len(rounds)
    while end:
        start = cheapest[end][1]
        passes.append([[r[worker] for r in rounds[start:end] if worker < len(r)] for worker in range(world)])
        end = start
    return passes[::-1]
