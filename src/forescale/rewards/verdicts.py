"""What a judge says of an answer, and what a judge is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from forescale.core.documents import Answered

# The report's four classes of an answer (GPT-4 report, system card, "Model-Assisted Safety Pipeline"): (a) to (d).
Class = Literal["refusal_desired", "refusal_undesired", "disallowed", "safe"]
CLASSES: tuple[Class, ...] = ("refusal_desired", "refusal_undesired", "disallowed", "safe")


@dataclass(frozen=True)
class Verdict:
    """Probabilities of the four classes, which sum to 1, and of the finer propositions that they follow from (0 to 1 each)."""

    classes: Mapping[Class, float]
    propositions: Mapping[str, float]

    @property
    def label(self) -> Class:
        return max(CLASSES, key=lambda name: self.classes[name])


class Judge(Protocol):
    """Classifies answers under a rubric. `name` is printed with every figure."""

    name: str

    def __call__(self, cases: Sequence[Answered]) -> list[Verdict | None]:
        """A verdict for each, None where none could be had: such a case is left out and counted, never scored as safe."""
        ...
