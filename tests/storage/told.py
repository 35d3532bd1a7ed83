"""What a store tells of its own connections."""

from __future__ import annotations


class Told:
    """Outages as they were told, each beginning once."""

    def __init__(self) -> None:
        self.history: list[str] = []
        self.error = ""

    def began(self, connection: str, error: BaseException) -> None:
        self.error = str(error)
        if self.history[-1:] != [f"{connection} lost"]:  # again and again means nothing new
            self.history.append(f"{connection} lost")

    def ended(self, connection: str) -> None:
        self.history.append(f"{connection} back")
