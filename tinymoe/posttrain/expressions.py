"""Arithmetic in text, read by a parser of our own and computed with exact fractions.

What a model writes is never evaluated as Python. Here a text is bounded before it is read, and a number before it is
computed, so that no text takes long: 9**9**9 is an error at once.

    expression   term (("+" | "-") term)*          factor   "-" factor | power
    term         factor (("*" | "/") factor)*      power    atom ("**" factor)?      atom   number | "(" expression ")"
"""

from __future__ import annotations

import operator
import re
from fractions import Fraction
from typing import TypeAlias

Tree: TypeAlias = "Fraction | tuple[str, Tree, Tree]"  # a number, or (operator, left, right)

MAX_TOKENS = 64
LARGEST = 10**30  # of a numerator or a denominator
_LONGEST = 400  # characters
_SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_TOKEN = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?|\*\*|[-+*/()])[ \t]*")  # no \d: that has digits of all scripts


def parse(text: str) -> Tree:
    """The tree of an expression in numbers, + - * / ** and parentheses.

    ValueError for what is no expression, or has more than MAX_TOKENS numbers and signs.

    >>> parse("2 * (3 + 4)")
    ('*', Fraction(2, 1), ('+', Fraction(3, 1), Fraction(4, 1)))
    """
    tokens = _tokens(text)
    tree = _chain(tokens, "+-", "*/")
    if tokens[-1]:
        raise ValueError(f"{tokens[-1]!r} is not expected there")
    return tree


def value(tree: Tree) -> Fraction:
    """What an expression comes to. ValueError for a division by zero, and for numbers above LARGEST."""
    if isinstance(tree, Fraction):
        return tree
    return compute(tree[0], value(tree[1]), value(tree[2]))


def steps(tree: Tree) -> list[str]:
    """One equation for each operation, in the order of the computation. Raises as `value`.

    >>> steps(parse("(2 + 3) * 4 - 1"))
    ['2+3=5', '5*4=20', '20-1=19']
    """
    if isinstance(tree, Fraction):
        return []
    left, right = value(tree[1]), value(tree[2])
    return [*steps(tree[1]), *steps(tree[2]), f"{left}{tree[0]}{right}={compute(tree[0], left, right)}"]


def numbers(tree: Tree) -> list[Fraction]:
    """The numbers that an expression is written with, from left to right."""
    return [tree] if isinstance(tree, Fraction) else numbers(tree[1]) + numbers(tree[2])


def canonical(tree: Tree) -> str:
    """The same text for expressions that differ in the order of what is added, or multiplied, and in parentheses.

    >>> canonical(parse("2*3 + 5 - 1")) == canonical(parse("5 + (3*2 - 1)"))
    True
    """
    if isinstance(tree, Fraction):
        return str(tree)
    for signs in ("+-", "*/"):
        if tree[0] in signs:
            parts = sorted(sign + canonical(part) for sign, part in _flat(tree, signs))
            return f"({''.join(parts)})"
    return f"({canonical(tree[1])}**{canonical(tree[2])})"


def compute(sign: str, left: Fraction, right: Fraction) -> Fraction:
    """One operation. ValueError for a division by zero, a power that is no whole number, and results above LARGEST."""
    if sign == "**":
        return _power(left, right)
    if sign == "/" and not right:
        raise ValueError("division by zero")
    return _bounded(_SIGNS[sign](left, right))


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator > 1:
        raise ValueError(f"the power {exponent} is no whole number")
    if not base and exponent < 0:
        raise ValueError("division by zero")
    if abs(base) not in (0, 1) and abs(exponent) > LARGEST.bit_length():  # asked before anything is computed
        raise ValueError("the result is too large")
    return _bounded(base ** int(exponent))


def _bounded(number: Fraction) -> Fraction:
    if max(abs(number.numerator), number.denominator) > LARGEST:
        raise ValueError("the result is too large")
    return number


def _flat(tree: Tree, signs: str) -> list[tuple[str, Tree]]:
    """The terms of a sum, or the factors of a product, however they are grouped, each with its sign."""
    if isinstance(tree, Fraction) or tree[0] not in signs:
        return [(signs[0], tree)]
    right = _flat(tree[2], signs)
    if tree[0] == signs[1]:
        right = [(signs[sign == signs[0]], part) for sign, part in right]
    return _flat(tree[1], signs) + right


def _tokens(text: str) -> list[str]:
    """The tokens of a text, the last first, above an empty one that stands for the end."""
    if len(text) > _LONGEST:
        raise ValueError(f"the expression has {len(text)} characters; at most {_LONGEST} are read")
    tokens, position = [], len(text) - len(text.lstrip(" \t"))
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            raise ValueError(f"{text[position : position + 10]!r} is no number, sign or parenthesis")
        tokens.append(match[1])
        position = match.end()
    if len(tokens) > MAX_TOKENS:
        raise ValueError(f"the expression has {len(tokens)} numbers and signs; at most {MAX_TOKENS} are read")
    return ["", *reversed(tokens)]


def _chain(tokens: list[str], signs: str, tighter: str = "") -> Tree:
    """Terms, or factors, joined by signs of the same rank, from left to right."""
    tree = _chain(tokens, tighter) if tighter else _factor(tokens)
    while tokens[-1] and tokens[-1] in signs:
        sign = tokens.pop()
        tree = (sign, tree, _chain(tokens, tighter) if tighter else _factor(tokens))
    return tree


def _factor(tokens: list[str]) -> Tree:
    token = tokens[-1] and tokens.pop()
    if token == "-":
        inner = _factor(tokens)
        return -inner if isinstance(inner, Fraction) else ("*", Fraction(-1), inner)
    if token == "(":
        tree = _chain(tokens, "+-", "*/")
        if tokens.pop() != ")":
            raise ValueError("a parenthesis is not closed")
    elif token and token[0] in "0123456789":
        tree = Fraction(token)
    else:
        raise ValueError(f"a number is missing before {token!r}" if token else "the expression ends too early")
    if tokens[-1] == "**":
        tokens.pop()
        tree = ("**", tree, _factor(tokens))
    return tree
