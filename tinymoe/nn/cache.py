"""The KV cache: keys and values of the tokens already read, so that a new token costs one token's work."""

from __future__ import annotations

from .. import ops
from ..backend import current
from ..backend.reference import Array
from ..tensor import Tensor
from .module import part


class LayerCache:
    """One layer's keys and values, (B, capacity, K, D) each, of which the first `length` tokens are filled."""

    def __init__(self) -> None:
        self.length = 0
        self._keys: Array = None
        self._values: Array = None

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Add new tokens k and v (B, T, K, D); returns all that can be seen, (B, S, K, D), the new ones last, as views.

        Raises ValueError when the batch size differs from that of the tokens already held.
        """
        if self._keys is None:
            self._keys, self._values = k[:, :0], v[:, :0]
        keys, values, seen = self.reserve(*k.shape[:2])
        new = slice(seen.stop - k.shape[1], seen.stop)
        keys[:, new], values[:, new] = k, v
        return keys[:, seen], values[:, seen]

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """`append` for tensors. What comes back is constant: no gradient flows through this cache."""
        keys, values = self.append(k.data, v.data)
        return Tensor(keys), Tensor(values)

    def reserve(self, batch: int, tokens: int) -> tuple[Array, Array, slice]:
        """Make room for so many new tokens after those held, and count them; whoever calls this writes them.

        Returns all keys and values, (B, capacity, K, D) each, and the places that can be seen, the new ones last.
        """
        self._check(batch)
        end = self.length + tokens
        if end > self._keys.shape[1]:
            # Doubling keeps the copying linear in the number of tokens, however many come one at a time.
            capacity = max(end, 2 * self._keys.shape[1])
            self._keys, self._values = (_grown(old, self.length, capacity) for old in (self._keys, self._values))
        self.length = end
        return self._keys, self._values, slice(0, end)

    @property
    def nbytes(self) -> int:
        """Bytes held by the tokens read so far."""
        if self._keys is None:
            return 0
        return self._keys[:, : self.length].nbytes + self._values[:, : self.length].nbytes

    def _check(self, batch: int) -> None:
        if batch != len(self._keys):
            raise ValueError(f"cache: it holds a batch of {len(self._keys)}, got a batch of {batch}")


@part("cache", "rolling")
class RollingCache(LayerCache):
    """A cache that forgets what no later token can see: it holds the last `window` - 1 tokens (Mistral 7B).

    `length` still counts all tokens read.
    """

    def __init__(self, window: int):
        super().__init__()
        self.window = window
        self._start = self._end = 0

    def reserve(self, batch: int, tokens: int) -> tuple[Array, Array, slice]:
        """As in `LayerCache`; seen are the new tokens and the `window` - 1 before, which their attention can reach."""
        self._check(batch)
        held = self._end - self._start
        if self._end + tokens > self._keys.shape[1]:
            # Room for twice the window: the kept tokens move to the front only once in a window's time.
            capacity = max(held + tokens, 2 * self.window)
            kept = slice(self._start, self._end)
            self._keys, self._values = (_grown(old[:, kept], held, capacity) for old in (self._keys, self._values))
            self._start, self._end = 0, held
        seen = slice(self._start, self._end + tokens)
        self._end, self._start = seen.stop, max(seen.start, seen.stop - self.window + 1)
        self.length += tokens
        return self._keys, self._values, seen

    @property
    def nbytes(self) -> int:
        """Bytes held by the tokens that can still be seen."""
        if self._keys is None:
            return 0
        kept = slice(self._start, self._end)
        return self._keys[:, kept].nbytes + self._values[:, kept].nbytes


class SharedPrompt(LayerCache):
    """Keys and values of prompts that several texts go on from: a layer's cache that gradients flow through.

    What comes first are the prompts, (n, P, K, D), from the position `start` on; then, once, what follows them: text i
    goes on from prompt rows[i].
    """

    def __init__(self, rows: Array, start: int = 0):
        super().__init__()
        self.rows, self.length = rows, start
        self.prompts: list[Tensor] = []

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The prompts as they came, or k and v (B, T, K, D) behind their prompts, (B, P + T, K, D)."""
        if not self.prompts:
            self.prompts, self.length = [k, v], self.length + k.shape[1]
            return k, v
        return go_on(self.prompts[0], k, self.rows), go_on(self.prompts[1], v, self.rows)


def go_on(start: Tensor, rest: Tensor, rows: Array) -> Tensor:
    """Row i of rest (B, T, ...) behind row rows[i] of start (n, P, ...): (B, P + T, ...)."""
    copies = ops.embedding(start.reshape(len(start), -1), ids=rows).reshape(len(rows), *start.shape[1:])
    return ops.concatenate(copies, rest, axis=1)


class KVCache:
    """One cache a layer, and the document number of each token held (None while all are one document)."""

    def __init__(self, layers: list[LayerCache]):
        self.layers = layers
        self.documents: Array | None = None

    @property
    def length(self) -> int:
        """Tokens read so far."""
        return self.layers[0].length

    @property
    def nbytes(self) -> int:
        """Bytes held by all layers."""
        return sum(layer.nbytes for layer in self.layers)

    def append_documents(self, documents: Array | None, batch: int, tokens: int) -> Array | None:
        """Note the document numbers (B, T) of new tokens; returns those of all tokens, or None where never given.

        Tokens for which no number was given belong to document 0.
        """
        xp = current().xp
        if documents is None and self.documents is None:
            return None
        new = xp.zeros((batch, tokens), dtype=xp.int64) if documents is None else documents
        old = xp.zeros((batch, self.length), dtype=xp.int64) if self.documents is None else self.documents
        self.documents = xp.concatenate([old, new], axis=1)
        return self.documents


def _grown(old: Array, length: int, capacity: int) -> Array:
    new = current().xp.empty((old.shape[0], capacity, *old.shape[2:]), dtype=old.dtype)
    new[:, :length] = old[:, :length]
    return new
