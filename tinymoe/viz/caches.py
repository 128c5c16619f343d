"""Three caches that fill token by token: all keys and values, a ring of them, and latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import traitlets as t

from .assets import script, style_sheet
from .widgets import _readable_token, _View

# Published sizes. A model without latents is shown with the ranks of DeepSeek V3, one without a window with Mistral's.
SHAPES: dict[str, dict[str, int]] = {
    "DeepSeek V3": {"layers": 61, "heads": 128, "kv_heads": 128, "head_dim": 128},
    "Llama 3 70B": {"layers": 80, "heads": 64, "kv_heads": 8, "head_dim": 128},
    "Mistral 7B": {"layers": 32, "heads": 32, "kv_heads": 8, "head_dim": 128},
}
_DEFAULTS = {"rank": 512, "rope": 64, "window": 4096, "bytes": 2}
_FIELDS = ("layers", "heads", "kv_heads", "head_dim", *_DEFAULTS)


class CachePlay(_View):
    """A text read token by token into three caches: step through it, change key/value heads and the window, compare.

    Slots are drawn true to scale: as high as the numbers in them. `shapes` maps a model's name to its "layers",
    "heads", "kv_heads", "head_dim", and where they differ from `_DEFAULTS` the latent's "rank" and "rope", the "window"
    and the "bytes" of a number. `window` is the ring's size on the page, `read` how many tokens are read at first.

    Raises ValueError for a setting that is missing, unknown or out of range.
    """

    _esm = script("caches")
    _css = style_sheet("common", "caches")
    tokens = t.List(t.Unicode()).tag(sync=True)
    shapes = t.List().tag(sync=True)
    window = t.Int().tag(sync=True)
    read = t.Int().tag(sync=True)

    def __init__(
        self,
        tokens: Sequence[str | bytes],
        *,
        shapes: Mapping[str, Mapping[str, int]] | None = None,
        window: int = 8,
        read: int = 1,
        title: str = "Three caches read a text",
    ):
        count = len(tokens)
        if count < 2:
            raise ValueError(f"tokens: got {count}, expected at least 2")
        for name, got in (("window", window), ("read", read)):
            if not 1 <= got <= count:
                raise ValueError(f"{name}: got {got}, expected 1 to {count}, the number of tokens")
        chosen = SHAPES if shapes is None else shapes
        if not chosen:
            raise ValueError("shapes: got none, expected at least one model")
        super().__init__(
            title=title,
            tokens=[_readable_token(token) for token in tokens],
            shapes=[{"name": name, **_checked_shape(name, shape)} for name, shape in chosen.items()],
            window=window,
            read=read,
        )

    def _summary(self) -> str:
        return f"{len(self.tokens)} tokens into three caches, sized as in {len(self.shapes)} models"


def _checked_shape(name: str, shape: Mapping[str, int]) -> dict[str, int]:
    whole = {**_DEFAULTS, **shape}
    if wrong := sorted(whole.keys() ^ set(_FIELDS)):
        raise ValueError(f"shapes[{name!r}]: {wrong[0]!r} is unknown or missing, expected {', '.join(_FIELDS)}")
    for field, got in whole.items():
        if got < 1:
            raise ValueError(f"shapes[{name!r}]: got {field} = {got}, expected at least 1")
    if whole["heads"] % whole["kv_heads"]:
        raise ValueError(f"shapes[{name!r}]: got kv_heads = {whole['kv_heads']}, expected a divisor of heads")
    return whole
