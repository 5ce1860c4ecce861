"""Judges a text by its words: which choice fits it, how likely a statement is, where it stands on a scale.

The same text, model and question get the same verdict over every API: what words leave open is drawn by these three.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest
from math import exp

from runner.simulator.draws import Draws, digest_of
from runner.simulator.words import Stems, content_stems, shared_with, stems

Options = tuple[Stems, ...]
"""What there is to choose from: for each choice, the stems of what is known about it."""


@lru_cache(maxsize=512)
def options(choices: tuple[str, ...], descriptions: tuple[str, ...] = (), prose: str = "") -> Options:
    """The stems of each choice, of its description, and of what the question says about it.

    Args:
        choices: the choices as text.
        descriptions: one for each choice, empty where there is none; or none at all.
        prose: the question, which may list the choices as `ml: machine learning, math: mathematics`.
    """
    told = descriptions or ("",) * len(choices)
    listed = _listed(choices, prose)
    return tuple(
        content_stems(choice) | content_stems(description) | content_stems(listed.get(choice, ""))
        for choice, description in zip(choices, told, strict=True)
    )


def _listed(choices: tuple[str, ...], prose: str) -> dict[str, str]:
    """What a text says about each choice: all that stands after `choice:` (or `=`, ` - `, `(`) until the next one."""
    longest_first = sorted(filter(None, choices), key=len, reverse=True)
    if not prose or not longest_first:
        return {}
    names = "|".join(map(re.escape, longest_first))
    # Quotation marks and asterisks may stand around the choice.
    pattern = re.compile(rf"(?<!\w)({names})[\"'`*]*(?:\s*[:=–—(]|\s+-\s)")
    found = list(pattern.finditer(prose))
    said: dict[str, str] = {}
    for match, following in zip_longest(found, found[1:]):
        said.setdefault(match[1], prose[match.end() : following.start() if following else None])
    return said


class Judge:
    """Judges one text.

    Args:
        seed: another seed draws otherwise.
        model: the model that is played; another model draws otherwise.
        text: the text.
        words: the words of the text.
    """

    __slots__ = ("_model", "_name", "_seed", "_text", "_written")

    def __init__(self, seed: int, model: str, text: str, words: list[str]) -> None:
        self._seed = seed
        self._model = model
        self._written = text
        self._text = stems(words)
        self._name = b""

    def choose(self, question: str, among: Options) -> int:
        """The position of the choice that shares most with the text; one of the best is drawn.

        Args:
            question: a name by which this question is drawn for.
            among: at least one.
        """
        best = _best(shared_with(among, self._text))
        return best[0] if len(best) == 1 else self._draws(f"choice of {len(among)} for {question}").pick(best)

    def several(self, question: str, among: Options, least: int, most: int) -> list[int]:
        """The positions of all choices that share anything with the text, in the order of the choices.

        Args:
            least: the best others are added up to this number; at least one choice is taken, if `most` allows.
            most: the best of them are taken, at most this many.
        """
        scores = shared_with(among, self._text)
        first = self.choose(question, among)
        ranked = sorted(range(len(among)), key=lambda at: (at != first, *(-each for each in scores[at])))
        speaking = sum(score > (0, 0) for score in scores)
        return sorted(ranked[: min(max(least, speaking, 1), most)])

    def probabilities(self, question: str, among: Options) -> list[float]:
        """How likely each choice is, with `choose`'s choice ahead of all others. They sum to 1."""
        chosen = self.choose(question, among)
        draws = self._draws(f"probabilities of {len(among)} for {question}")
        # What words speak for is chosen with more confidence than what was drawn.
        told = shared_with((among[chosen],), self._text)[0] > (0, 0)
        lead = 0.4 + 0.55 * draws.unit() if told else 0.05 + 0.35 * draws.unit()
        weights = [0.1 + 0.8 * draws.unit() for _ in among]
        weights[chosen] = 1.0
        return _completed([(1 - lead) * weight / sum(weights) for weight in weights], chosen)

    def levels(self, question: str, among: Options) -> list[float]:
        """How likely each level of a scale is: most at `choose`'s level, less with the distance. They sum to 1."""
        chosen = self.choose(question, among)
        fall = 0.1 + 0.35 * self._draws(f"levels of {len(among)} for {question}").unit()
        weights = [fall ** abs(at - chosen) for at in range(len(among))]
        return _completed([weight / sum(weights) for weight in weights], chosen)

    def likelihood(self, question: str, statement: str) -> float:
        """How likely a statement about the text is: the more of its words are in the text, the likelier."""
        wanted = content_stems(statement)
        found = sum(each in self._text for each in wanted) / len(wanted) if wanted else 0.35
        doubt = 3 * self._draws(f"likelihood for {question}").unit() - 1.5
        return round(1 / (1 + exp(-6 * (found - 0.35) - doubt)), 6)

    def _draws(self, purpose: str) -> Draws:
        if not self._name:  # most texts speak for themselves, and need no draw
            named = f"{self._model}\n{self._written}"
            self._name = digest_of(self._seed, named.encode(errors="surrogatepass"))
        return Draws(self._name, purpose)


def _best(scores: Sequence[tuple[int, int]]) -> list[int]:
    best = max(scores)
    return [at for at, score in enumerate(scores) if score == best]


def _completed(shares: list[float], chosen: int) -> list[float]:
    """Shares with eight decimals; the chosen one gets what is left of 1."""
    rounded = [round(share, 8) for share in shares]
    rounded[chosen] = 0.0
    rounded[chosen] = round(1 - sum(rounded), 8)
    return rounded
