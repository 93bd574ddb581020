"""A measure of your own: numbers for responses, which xling shows in every cell with an interval.

    xling run sweeps=demo measures=examples/own_measure.py:copied
    python examples/own_measure.py                  # the same from Python

It is computed while the finished cells are folded: no stage depends on it, and a grid that was run without it gets it
by the same command with `measures=` added, which runs nothing again. Several: measures=[a.py:one,a.py:two].
"""


def copied(responses: list[str], prompts: list[str]) -> list[float]:
    """Words of the response that stand in the prompt, %"""
    return [100 * share(response, prompt) for response, prompt in zip(responses, prompts, strict=True)]


copied.span = (0, 100)  # no interval leaves this scale; without it there is none


def share(response: str, prompt: str) -> float:
    words, known = response.lower().split(), set(prompt.lower().split())
    return sum(word in known for word in words) / max(1, len(words))


def words(responses: list[str]) -> list[float | None]:
    """Words in a response"""
    return [len(response.split()) or None for response in responses]  # None: there is nothing to measure


if __name__ == "__main__":
    import xling

    HERE = f"measures=[{__file__}:copied,{__file__}:words]"
    grid = xling.run("sweeps=demo", "tracking.mode=off", HERE)
    columns = ["source_lang", "target_lang", "copied", "copied_low", "copied_high", "words"]
    print(grid.measures[columns])  # the row (baseline) is the policy that cells are compared with
