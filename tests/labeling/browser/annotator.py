"""What a person does at the page, and what the store then holds of it."""

import re
from collections.abc import Sequence
from typing import Any

from serving import App

from labeling_app.store import Judgement, NewResponse, NewTask

BEST_TO_WORST = ("A: sent today", "B: sent soon", "C: please wait", "D: who are you?")
"""Completions whose right order is known."""


PATIENCE_MS = 10_000


def task(prompt: str = "Where is my parcel?", texts: Sequence[str] = BEST_TO_WORST, **options: Any) -> NewTask:
    return NewTask(prompt, [NewResponse(text) for text in texts], **options)


class Annotator:
    """Somebody at a browser.

    `page` is Playwright's; `problems` are errors that the page itself ran into.
    """

    def __init__(self, app: App, context: Any) -> None:
        self.app, self.context = app, context
        self.user = app.store.add_user(f"annotator-{len(app.store.users())}")
        self.problems: list[str] = []
        self.sign_in()
        self.page = self.new_page()

    def sign_in(self) -> None:
        token = self.app.new_session(self.user)
        self.context.add_cookies([{"name": "rlhf_session", "value": token, "url": self.app.address}])

    def new_page(self) -> Any:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        return page

    def open(self) -> None:
        self.page.goto(f"{self.app.address}/label/", wait_until="commit")
        self.page.wait_for_selector(".card, .blank h2")

    # What is on the screen

    @property
    def prompt(self) -> str:
        return self.page.inner_text(".prompt").strip()

    @property
    def texts(self) -> list[str]:
        """Of the cards, in the order in which they are shown."""
        return [text.strip() for text in self.page.locator(".card .body").all_inner_texts()]

    @property
    def badges(self) -> dict[str, str]:
        """Where the cards are placed: {text: badge}."""
        return dict(zip(self.texts, self.page.locator(".card .badge").all_inner_texts(), strict=True))

    def number(self, text: str) -> str:
        """The key that stands for a card."""
        return str(self.texts.index(text) + 1)

    def card(self, text: str) -> Any:
        return self.page.locator(".card").nth(self.texts.index(text))

    def chip(self, text: str) -> Any:
        """The card's mark in the order."""
        return self.page.locator(".order-chip", has_text=self.number(text))

    # What is done

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def rank(self, *texts: str) -> None:
        """By digits, best first; "=" stands for itself."""
        self.press(*[text if text == "=" else self.number(text) for text in texts])

    def wait_saved(self, num: int) -> None:
        """Until the page says that so many answers of this person are stored."""
        self.page.locator("#page-progress .quiet", has_text=re.compile(rf"^{num} of")).wait_for()

    def wait_prompt(self, prompt: str) -> None:
        """Until this task is on the screen."""
        self.page.locator(".prompt", has_text=prompt).wait_for()

    # What the store holds

    @property
    def judgements(self) -> list[Judgement]:
        return [judgement for judgement in self.app.store.judgements() if judgement.user == self.user.name]

    @property
    def orders(self) -> dict[str, list[list[str]]]:
        """Of each task that was ranked, by its prompt: tiers of texts."""
        return {str(judgement.prompt): tiers(judgement) for judgement in self.judgements}


def tiers(judgement: Judgement) -> list[list[str]]:
    texts = {response.id: str(response.content) for response in judgement.responses}
    return [sorted(texts[response] for response in tier) for tier in judgement.answer.tiers]


def text_of(judgement: Judgement, response_id: int) -> str:
    return next(str(response.content) for response in judgement.responses if response.id == response_id)
