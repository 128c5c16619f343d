"""One conversation in every chat template, to compare: which signs each adds, and what a model learns of it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import traitlets as t

from ..text import chat
from ..text.replies import Message
from .assets import script, style_sheet
from .widgets import _View


class ChatTemplates(_View):
    """Conversations as chat templates write them: choose both, and see the tokens that are signs, and those learned.

    `talks` maps a name to the messages of a conversation; `options` maps such a name to the options of `chat.render`
    for it, of which each template gets those it has a place for. Where it has none for something in the messages, it
    says so. `templates` are all there are, unless given.

    Raises ValueError where there is no conversation, and for unknown templates and options for unknown conversations.
    """

    _esm = script("chats")
    _css = style_sheet("common", "chats")
    talks = t.List(t.Unicode()).tag(sync=True)
    templates = t.List(t.Unicode()).tag(sync=True)
    renderings = t.List().tag(sync=True)  # for each talk and template {"pieces": [[text, kind], …]} or {"error": text}

    def __init__(
        self,
        talks: Mapping[str, Sequence[Message]],
        *,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        templates: Sequence[str] | None = None,
        title: str = "One conversation, many templates",
    ):
        chosen = chat.templates() if templates is None else list(templates)
        options = {} if options is None else options
        if not talks or not chosen:
            raise ValueError(f"{'templates' if talks else 'talks'}: got none, expected at least one")
        for name, known in [(name, chat.templates()) for name in chosen] + [(name, [*talks]) for name in options]:
            if name not in known:
                raise ValueError(f"got {name!r}, expected one of {', '.join(known)}")
        super().__init__(
            title=title,
            talks=list(talks),
            templates=chosen,
            renderings=[
                [_rendering(messages, template, options.get(name, {})) for template in chosen]
                for name, messages in talks.items()
            ],
        )

    def _summary(self) -> str:
        return f"{len(self.talks)} conversations in {len(self.templates)} templates"


def _rendering(messages: Sequence[Message], template: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The text in pieces, each of a kind: "" for plain text, "s" for a sign, with "m" where the assistant says it."""
    takes = chat.TEMPLATES[template].takes
    fitting: chat.Options = {name: value for name, value in options.items() if name in takes}  # type: ignore[assignment]
    try:
        text = chat.render(messages, template, **fitting)
        spans = chat.spans(messages, template, **fitting)
    except ValueError as error:
        return {"error": str(error)}
    signs = "|".join(map(re.escape, chat.special_tokens(template)))
    ends = {0, len(text)} | {end for span in spans for end in span}
    ends |= {end for match in re.finditer(signs, text) for end in match.span()}
    cuts = sorted(ends)
    pieces = []
    for start, end in itertools.pairwise(cuts):
        piece = text[start:end]
        mine = any(first <= start < last for first, last in spans)
        pieces.append([piece, "s" * bool(re.fullmatch(signs, piece)) + "m" * mine])
    left_out = sorted(options.keys() - fitting.keys())
    return {"pieces": pieces, "stop": chat.stop_tokens(template), "left": left_out}
