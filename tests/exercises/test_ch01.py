"""Wrong answers to the exercises of chapter 01, each of a kind that people write."""

from __future__ import annotations

from itertools import pairwise

from .runner import exercise_tests


def off_by_one(code):
    if not 0 <= code <= 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise ValueError("not a character")
    if code <= 0x80:
        return [code]
    return list(chr(code).encode())


def no_continuation_marks(code):
    if not 0 <= code <= 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise ValueError("not a character")
    if code < 0x80:
        return [code]
    if code < 0x800:
        return [0xC0 | code >> 6, code & 0x3F]
    return list(chr(code).encode())


def last_byte_first(code):
    if not 0 <= code <= 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise ValueError("not a character")
    return list(chr(code).encode())[::-1]


def lets_surrogates_through(code):
    if not 0 <= code <= 0x10FFFF:
        raise ValueError("not a character")
    return list(chr(code).encode("utf-8", "surrogatepass"))


def at_most_three_bytes(code):
    if not 0 <= code <= 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise ValueError("not a character")
    if code >= 0x10000:
        return [0xE0 | code >> 12 & 0x0F, 0x80 | code >> 6 & 0x3F, 0x80 | code & 0x3F]
    return list(chr(code).encode())


def words_only():
    return r"\w+"


def gpt2s():
    return r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def between_blanks():
    return r" ?\S+|\s+(?!\S)|\s+"


def character_by_character():
    return r"\w+|\s|[^\w\s]"


def the_whole_line():
    return r"[^\n]+|\n"


def ignores_how_often(words, counts):
    totals, places = {}, {}
    for index, word in enumerate(words):
        for pair in pairwise(word):
            totals[pair] = totals.get(pair, 0) + 1
            places.setdefault(pair, set()).add(index)
    return totals, places


def no_overlaps(words, counts):
    totals, places = {}, {}
    for index, word in enumerate(words):
        at = 0
        while at + 1 < len(word):
            pair = (word[at], word[at + 1])
            totals[pair] = totals.get(pair, 0) + counts[index]
            places.setdefault(pair, set()).add(index)
            at += 2 if word[at] == word[at + 1] else 1
    return totals, places


def each_word_once(words, counts):
    totals, places = {}, {}
    for index, word in enumerate(words):
        for pair in set(pairwise(word)):
            totals[pair] = totals.get(pair, 0) + counts[index]
            places.setdefault(pair, set()).add(index)
    return totals, places


def only_the_last_place(words, counts):
    totals, places = {}, {}
    for index, word in enumerate(words):
        for pair in pairwise(word):
            totals[pair] = totals.get(pair, 0) + counts[index]
            places[pair] = {index}
    return totals, places


def _merge(word, pair, new, changed):
    merged, changes, at = [], [], 0
    while at < len(word):
        if tuple(word[at : at + 2]) == tuple(pair):
            changes += changed(merged, word, at)
            merged.append(new)
            at += 2
        else:
            merged.append(word[at])
            at += 1
    return merged, changes


def forgets_what_has_gone(word, pair, new):
    def changed(merged, word, at):
        came = [((merged[-1], new), 1)] if merged else []
        return came + ([((new, word[at + 2]), 1)] if at + 2 < len(word) else [])

    return _merge(word, pair, new, changed)


def forgets_the_right_side(word, pair, new):
    def changed(merged, word, at):
        return [((merged[-1], pair[0]), -1), ((merged[-1], new), 1)] if merged else []

    return _merge(word, pair, new, changed)


def looks_left_in_the_old_word(word, pair, new):
    def changed(merged, word, at):
        left = [((word[at - 1], pair[0]), -1), ((word[at - 1], new), 1)] if at else []
        right = [((pair[1], word[at + 2]), -1), ((new, word[at + 2]), 1)] if at + 2 < len(word) else []
        return left + right

    return _merge(word, pair, new, changed)


def only_the_first_place(word, pair, new):
    for at in range(len(word) - 1):
        if (word[at], word[at + 1]) == pair:
            merged = [*word[:at], new, *word[at + 2 :]]
            left = [((word[at - 1], pair[0]), -1), ((word[at - 1], new), 1)] if at else []
            right = [((pair[1], word[at + 2]), -1), ((new, word[at + 2]), 1)] if at + 2 < len(word) else []
            return merged, left + right
    return list(word), []


def from_the_right(word, pair, new):
    merged, changes = _merge(word[::-1], pair[::-1], new, lambda merged, word, at: [])
    return merged[::-1], changes


def one_pass_from_left(word, ranks):
    tokens = []
    for token in word:
        tokens.append(token)
        while len(tokens) > 1 and tuple(tokens[-2:]) in ranks:
            tokens[-2:] = [ranks[tuple(tokens[-2:])][1]]
    return tokens


def first_pair_found(word, ranks):
    tokens = list(word)
    while found := [at for at, pair in enumerate(pairwise(tokens)) if pair in ranks]:
        at = found[0]
        tokens[at : at + 2] = [ranks[tokens[at], tokens[at + 1]][1]]
    return tokens


def highest_rank_first(word, ranks):
    tokens = list(word)
    while found := [(-ranks[pair][0], at) for at, pair in enumerate(pairwise(tokens)) if pair in ranks]:
        at = min(found)[1]
        tokens[at : at + 2] = [ranks[tokens[at], tokens[at + 1]][1]]
    return tokens


def rightmost_of_equals(word, ranks):
    tokens = list(word)
    while found := [(ranks[pair][0], -at) for at, pair in enumerate(pairwise(tokens)) if pair in ranks]:
        at = -min(found)[1]
        tokens[at : at + 2] = [ranks[tokens[at], tokens[at + 1]][1]]
    return tokens


def longest_first(word, ranks):
    parts = {new: (left, right) for (left, right), (_, new) in ranks.items()}

    def spelled(token):
        return [token] if token not in parts else [piece for part in parts[token] for piece in spelled(part)]

    known = sorted(([spelled(token), token] for token in parts), key=lambda item: -len(item[0]))
    tokens, at = [], 0
    while at < len(word):
        found = next(([s, t] for s, t in known if list(word[at : at + len(s)]) == s), [[word[at]], word[at]])
        tokens.append(found[1])
        at += len(found[0])
    return tokens


TestExercises = exercise_tests(
    "01",
    {
        "01.utf8_bytes": [
            off_by_one,
            no_continuation_marks,
            last_byte_first,
            lets_surrogates_through,
            at_most_three_bytes,
        ],
        "01.my_pattern": [words_only, gpt2s, between_blanks, character_by_character, the_whole_line],
        "01.count_pairs": [ignores_how_often, no_overlaps, each_word_once, only_the_last_place],
        "01.merge_pair": [
            forgets_what_has_gone,
            forgets_the_right_side,
            looks_left_in_the_old_word,
            only_the_first_place,
            from_the_right,
        ],
        "01.merge_word": [
            one_pass_from_left,
            first_pair_found,
            highest_rank_first,
            rightmost_of_equals,
            longest_first,
        ],
    },
)
