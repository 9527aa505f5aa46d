"""A finding: something that is wrong, wherever in the lab it was found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, in words that lead to its mend."""

    rule: str  # "gradient-wrong": its meaning never changes; the other fields are for people
    title: str  # what is wrong, as a sentence without a full stop
    expected: str
    got: str
    why: str  # why it matters
    mend: str

    @property
    def message(self) -> str:
        """All of it, a line each."""
        parts = f"expected: {self.expected}", f"got: {self.got}", f"why it matters: {self.why}", f"mend: {self.mend}"
        return "\n".join((self.title, *parts))

    @property
    def line(self) -> str:
        """The fault itself in one line."""
        return f"{self.title}: expected {self.expected}, got {self.got}"
