"""Support tickets and the team that answers them: the text that the demo's classifier learns from.

Made up for this demo: sentences from a few dozen parts, the same at every run.
"""

from __future__ import annotations

import random

_OPENINGS = ("", "Hello, ", "Hi team, ", "Dear support, ", "Urgent: ", "Since this morning ")
_CLOSINGS = ("", " Please help.", " Thanks!", " Can you look into it?", " I have tried twice.")
_SENTENCES = {
    "billing": (
        "I was charged twice for the {thing}",
        "the invoice for the {thing} shows the wrong amount",
        "my credit card was declined when paying for the {thing}",
        "please refund the payment for the {thing}",
        "the discount is missing on my bill for the {thing}",
    ),
    "delivery": (
        "the {thing} has not arrived yet",
        "the parcel with the {thing} came damaged",
        "tracking for the {thing} stopped last week",
        "the courier left the {thing} at the wrong address",
        "when will the {thing} be shipped",
    ),
    "technical": (
        "the app crashes when I open the {thing}",
        "I cannot log in to set up the {thing}",
        "the {thing} does not connect to the network",
        "an error message appears after updating the {thing}",
        "the {thing} freezes at start",
    ),
    "returns": (
        "I want to send the {thing} back",
        "the {thing} does not fit and I need an exchange",
        "where is the return label for the {thing}",
        "I changed my mind about the {thing}",
        "the {thing} is the wrong colour and I would like to swap it",
    ),
}
_THINGS = ("lamp", "headset", "router", "jacket", "coffee machine", "tablet", "keyboard", "camera")


def tickets(seed: int = 7) -> list[tuple[str, str]]:
    """Pairs of (text, team), shuffled; one for each sentence and thing."""
    dice = random.Random(seed)  # noqa: S311 - a corpus, no secret
    pairs = [
        (
            dice.choice(_OPENINGS) + sentence.format(thing=thing) + "." + dice.choice(_CLOSINGS),
            team,
        )
        for team, sentences in _SENTENCES.items()
        for sentence in sentences
        for thing in _THINGS
    ]
    dice.shuffle(pairs)
    return pairs
