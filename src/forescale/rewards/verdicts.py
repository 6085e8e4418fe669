"""What a judge says of an answer, and what a judge is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from forescale.core.documents import Answered

Class = Literal["refusal_desired", "refusal_undesired", "disallowed", "safe", "off_topic"]
# The report's four classes of an answer (GPT-4 report, system card, "Model-Assisted Safety Pipeline"): (a) to (d).
REPORTED: tuple[Class, ...] = ("refusal_desired", "refusal_undesired", "disallowed", "safe")
# And one of our own: an answer to something else refuses nothing and gives nothing, and is neither in any figure.
CLASSES: tuple[Class, ...] = (*REPORTED, "off_topic")


@dataclass(frozen=True)
class Verdict:
    """Probabilities of the classes, which sum to 1, and of the finer propositions that they follow from (0 to 1 each)."""

    classes: Mapping[Class, float]
    propositions: Mapping[str, float]

    @property
    def label(self) -> Class:
        return max(CLASSES, key=lambda name: self.classes.get(name, 0.0))


class Judge(Protocol):
    """Classifies answers under a rubric. `name` is printed with every figure."""

    name: str

    def __call__(self, cases: Sequence[Answered]) -> list[Verdict | None]:
        """A verdict for each, None where none could be had: such a case is left out and counted, never scored as safe."""
        ...
