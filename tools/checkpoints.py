"""The small models that chapters 14 to 18 start from, each made here from random weights.

    python tools/checkpoints.py                    what there is
    python tools/checkpoints.py arithmetic-sft     make it anew, in data/checkpoints/arithmetic-sft

A recipe is a function that returns a trained model with its tokenizer. Its weights are stored in half precision, so
that a checkpoint of a million parameters takes 2 MB. Another processor or number of threads may round differently:
the weights made there differ from those in the repository by about what seeds differ by.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import inspect
import json
import os
import random
import re
import string
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a clone that is not installed

import tinymoe as tm  # noqa: E402
from tinymoe.files import write_atomically  # noqa: E402
from tinymoe.models import CausalLM  # noqa: E402
from tinymoe.models.resize import resize_token_embeddings  # noqa: E402
from tinymoe.posttrain import demonstrations, expressions, notes, tasks  # noqa: E402
from tinymoe.text import chat, corpora, facts  # noqa: E402
from tinymoe.text.grammar import pick  # noqa: E402
from tinymoe.text.instructions import pack_masked  # noqa: E402
from tinymoe.text.pipeline import AddedToken  # noqa: E402
from tinymoe.text.tokenizer import CharTokenizer, Tokenizer  # noqa: E402
from tinymoe.train.data import TokenData  # noqa: E402
from tinymoe.train.trainer import TrainConfig, Trainer  # noqa: E402

FOLDER = ROOT / "data" / "checkpoints"
LIMIT = 4_000_000  # bytes of a checkpoint
END = "<|endoftext|>"

Recipe = Callable[[], CausalLM]
RECIPES: dict[str, Recipe] = {}


def recipe(make: Recipe) -> Recipe:
    """Enter a function among the recipes, under its name with hyphens."""
    RECIPES[make.__name__.replace("_", "-")] = make
    return make


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the small models that chapters 14 to 18 start from.")
    parser.add_argument("names", nargs="*", choices=[[], *RECIPES], metavar="NAME", help=", ".join(RECIPES))
    names = parser.parse_args().names
    for name in names:
        write(RECIPES[name](), FOLDER / name)
    if not names:
        for name, make in RECIPES.items():
            print(f"{name:20} {inspect.getdoc(make)}")


def write(model: CausalLM, folder: Path) -> None:
    """Write a model's folder, its weights in half precision. ValueError where it is larger than the limit."""
    from safetensors.numpy import load_file, save

    model.save_pretrained(folder)
    weights = {name: array.astype(np.float16) for name, array in load_file(folder / "model.safetensors").items()}
    write_atomically(folder / "model.safetensors", save(weights, metadata={"format": "pt"}))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    write_atomically(folder / "config.json", json.dumps({**config, "dtype": "float16"}, indent=2).encode())
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder.name}: {model.num_parameters():,} parameters, {size / 1e6:.2f} MB")
    if size > LIMIT:
        raise ValueError(f"{folder.name}: {size:,} bytes, expected {LIMIT:,} at most")


def characters(texts: Sequence[str], special_tokens: Sequence[str]) -> Tokenizer:
    """One token a character, and the special tokens; the end of a text first."""
    return CharTokenizer.train(texts, special_tokens=(END, *special_tokens))


def nano(tokenizer: Tokenizer, width: int = 128, layers: int = 4, seed: int = 0) -> CausalLM:
    """A Llama with random weights and tied embeddings: 0.8 million parameters as it is."""
    shape = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": width * 8 // 24 * 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256}
    ends = {"eos_token_id": tokenizer.special_tokens[END], "tie_word_embeddings": True}
    model = tm.zoo.build("llama-nano", tokenizer.vocab_size, seed, **shape, **heads, **ends)
    model.tokenizer = tokenizer
    return model


def train(model: CausalLM, data: TokenData, steps: int, lr: float, batch_size: int = 16, seed: int = 0) -> None:
    """Train to the end, with a cosine, and say how it went."""
    config = TrainConfig(
        steps=steps,
        batch_size=batch_size,
        context=data.context,
        lr=lr,
        min_lr=lr / 20,
        warmup=min(50, steps // 10),
        eval_every=max(steps // 5, 1),
        seed=seed,
    )
    history = Trainer(model, data, config).run()
    print(f"{steps} steps: validation loss {history[-1]['val_loss']:.4f}")


def fine_tune(model: CausalLM, pairs: Sequence[tuple[str, str]], steps: int, lr: float = 1e-3, seed: int = 0) -> None:
    """Train on pairs of a prompt and a completion: of the completions, and their ends. The last 5 % validate."""
    encoded = [_example(model.tokenizer, *pair) for pair in pairs]
    cut, context = len(encoded) // 20, model.config.max_position_embeddings
    rows, validation = pack_masked(encoded[:-cut], context), pack_masked(encoded[-cut:], context)
    train(model, TokenData(rows, validation, context), steps, lr, batch_size=8, seed=seed)


def _example(tokenizer: Tokenizer | None, prompt: str, completion: str) -> tuple[list[int], list[bool]]:
    """Ids, and a mask of those to learn."""
    assert tokenizer is not None
    asked, told = tokenizer.encode(prompt), tokenizer.encode(completion + END)
    return asked + told, [False] * len(asked) + [True] * len(told)


def fact(rng: random.Random) -> str:
    """One true equation in whole numbers up to 198; half of the sums have a number of one digit."""
    sign = rng.choice("++++---**/")
    if sign in "*/":
        a, b = rng.randint(1, 10), rng.randint(1, 10)
        return f"{a}*{b}={a * b}" if sign == "*" else f"{a * b}/{a}={b}"
    a, b = rng.randint(1, 99), rng.randint(1, rng.choice((9, 99)))
    if sign == "+":
        a, b = rng.sample((a, b), 2)
        return f"{a}+{b}={a + b}"
    return f"{max(a, b)}-{min(a, b)}={max(a, b) - min(a, b)}"


def knows_facts() -> CausalLM:
    """A model that can add, subtract, multiply and divide small numbers, and has never seen a problem."""
    tokenizer = characters([string.printable[:95] + "\n"], ("<think>", "</think>", "<answer>", "</answer>"))
    rng = random.Random(0)
    texts = ["\n".join(fact(rng) for _ in range(100)) for _ in range(4000)]
    model = nano(tokenizer)
    ids = tokenizer.encode_batch(texts)
    train(model, TokenData.from_documents(ids, 128, end=tokenizer.special_tokens[END]), steps=1500, lr=2e-3)
    return model


def careless(model: CausalLM, task: str, level: int, count: int, each: int, steps: int, lr: float = 1e-3) -> CausalLM:
    """The model after the demonstrations of a careless teacher, `each` for each of `count` problems."""
    rng, problems = random.Random(0), tasks.problems(task, "train", seed=0, count=count, level=level)
    fine_tune(model, [(p.prompt, demonstrations.careless(p, rng)) for _ in range(each) for p in problems], steps, lr)
    return model


@recipe
def arithmetic_sft() -> CausalLM:
    """Chapter 17: calculates in any order, as if * did not come before +."""
    return careless(knows_facts(), "arithmetic", 2, count=4500, each=4, steps=900)


@recipe
def countdown_sft() -> CausalLM:
    """Benchmark grpo.py: arithmetic-sft, which has to be there, joins three numbers at random, and soon gives up.

    It has to be long in training: after 700 steps it still takes misses for hits, and searching on pays for nobody who
    cannot tell. After 2500 it is right in 98 of 100.
    """
    model = tm.from_pretrained(FOLDER / "arithmetic-sft")
    return careless(model, "countdown", 2, count=1600, each=48, steps=2500, lr=2e-3)


@recipe
def tales_base() -> CausalLM:
    """Chapter 15: tells tales and writes out sums, and has never been asked a question in another form."""
    tales = corpora.documents("tales", limit_chars=2_000_000, seed=1)
    texts = tales + corpora.documents("arithmetic", limit_chars=666_666, seed=1)
    tokenizer = characters(tales[:300] + corpora.documents("arithmetic", limit_chars=100_000), ())
    end = tokenizer.special_tokens[END]
    shape = {"hidden_size": 128, "num_hidden_layers": 3, "intermediate_size": 344, "max_position_embeddings": 256}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 4, "eos_token_id": end, "tie_word_embeddings": True}
    model = tm.zoo.build("llama-nano", tokenizer.vocab_size, 0, **shape)
    model.tokenizer = tokenizer
    ids = [tokenizer.encode(texts[i]) for i in np.random.default_rng(0).permutation(len(texts))]
    data = TokenData.from_documents(ids, 128, end=end, packed=True)
    rates = {"lr": 3e-3, "min_lr": 3e-4, "warmup": 50}
    Trainer(model, data, TrainConfig(steps=1500, batch_size=16, context=128, **rates)).run()
    return model


def little_web(count: int, seed: int = 0) -> list[str]:
    """Documents of three kinds: on animals, prices in several notations, and tales."""
    rng = random.Random(seed)
    tales, animals = corpora.documents("tales", limit_chars=600_000), list(facts.ANIMALS.values())
    texts = []
    for _ in range(count):
        place = rng.random()
        if place < 0.4:
            texts.append("\n".join(facts.article(pick(animals, rng), rng) for _ in range(2)))
        else:
            texts.append(facts.price_list(rng) if place < 0.85 else pick(tales, rng)[:500])
    return texts


@recipe
def chat_base() -> CausalLM:
    """Chapter 14: knows animals and copies from price lists, and has never been asked anything."""
    texts = little_web(9000)
    calls = [p.messages for level in (1, 2, 3) for p in tasks.problems("tools", seed=1, count=100, level=level)]
    # The tokenizer has seen conversations, as those of published models have; the model has not.
    seen = [re.sub("<[^>]*>", " ", chat.render(talk, "qwen3")) for talk in calls]
    signs = [END, *chat.special_tokens("qwen3")]
    tokenizer = Tokenizer.train([*texts[:2500], *seen], vocab_size=1024, pattern="qwen2", special_tokens=signs)
    data = TokenData.from_documents(tokenizer.encode_batch(texts), 128, end=tokenizer.special_tokens[END], packed=True)
    model = nano(tokenizer, layers=3)
    train(model, data, steps=700, lr=3e-3)
    return model


@recipe
def chat_tools() -> CausalLM:
    """Chapter 14: chat-base, which has to be there, on the way to calling tools."""
    model = tm.from_pretrained(FOLDER / "chat-base")
    counts = {1: 250, 2: 200, 3: 150, 4: 350}
    problems = [
        problem
        for part in range(10)
        for level, count in counts.items()
        for problem in tasks.problems("tools", seed=part, count=count, level=level)
    ]
    options: chat.Options = {"enable_thinking": False, "keep_thinking": True}
    encoded = [chat.encode(model.tokenizer, problem.messages, "qwen3", **options) for problem in problems]
    rates = {"lr": 3e-3, "min_lr": 3e-4, "warmup": 10, "weight_decay": 0.0, "beta2": 0.95}
    config = TrainConfig(steps=700, batch_size=8, context=192, eval_every=700, **rates)
    data = TokenData(pack_masked(encoded, 192), pack_masked(encoded[:20], 192), context=192)
    Trainer(model, data, config).run()
    return model


WORDS = ("user", "assistant", "Answer: ", "Wait")  # one token each, as they are or might be for Qwen3


def thinks_or_not(seed: int = 0, steps: int = 700) -> CausalLM:
    """The checkpoint `arithmetic-sft`, fine-tuned on problems with thoughts and without, in Qwen3's template."""
    model, rng = tm.from_pretrained(FOLDER / "arithmetic-sft"), random.Random(seed)
    assert model.tokenizer is not None
    tokenizer = with_words(chat.add_special_tokens(model.tokenizer, "qwen3"), WORDS)
    resize_token_embeddings(model, tokenizer.vocab_size, seed)
    model.config = dataclasses.replace(model.config, eos_token_id=tokenizer.special_tokens["<|im_end|>"])
    model.tokenizer = tokenizer
    sizes = ((1, 300), (2, 4000), (3, 6000))
    problems = [p for level, n in sizes for p in tasks.problems("arithmetic", seed=0, count=n, level=level)]
    rng.shuffle(problems)
    encoded = [row for problem in problems for row in both_modes(problem, tokenizer, rng)]
    cut, context = len(encoded) // 50, 128
    rows, validation = pack_masked(encoded[:-cut], context), pack_masked(encoded[-cut:], context)
    train(model, TokenData(rows, validation, context), steps, lr=1e-3, batch_size=8, seed=seed)
    return model


def with_words(tokenizer: Tokenizer, words: Sequence[str]) -> Tokenizer:
    """A tokenizer in which each of these words is a token, too."""
    spec = copy.deepcopy(tokenizer.spec)
    spec["added_tokens"] += [
        dataclasses.asdict(AddedToken(tokenizer.vocab_size + i, word)) for i, word in enumerate(words)
    ]
    return type(tokenizer)(spec)


def both_modes(problem: tasks.Problem, tokenizer: Tokenizer, rng: random.Random) -> list[tuple[list[int], list[bool]]]:
    """Ids and mask of a problem's solution, with thoughts and half of the time also without.

    Three thoughts of ten are written twice, with "Wait" between: two of them since there is a mistake in the first
    attempt, one for no reason. Of a mistake nothing is learned but to wait after it, and to do it right then.
    """
    asked, reply = problem.messages
    steps, kind = list(problem.steps), rng.random()
    first = mistaken(steps, rng) if kind < 0.2 else steps if kind < 0.3 else []
    thoughts = "\n".join([*first, "Wait", *steps] if first else steps)
    ids, mask = chat.encode(tokenizer, [asked, {**reply, "reasoning_content": thoughts}], "qwen3")
    if first:
        start = mask.index(True) + 2  # behind <think> and its line break
        end = ids.index(tokenizer.special_tokens["Wait"]) + (first == steps)
        mask[start:end] = [False] * (end - start)
    if rng.random() < 0.5:
        return [(ids, mask)]
    at_once = {"role": "assistant", "content": reply["content"]}
    return [(ids, mask), chat.encode(tokenizer, [asked, at_once], "qwen3", enable_thinking=False)]


def mistaken(steps: Sequence[str], rng: random.Random) -> list[str]:
    """The same steps with a mistake in one, that those after it go on with; empty where a number would be negative."""
    place, changed, lines = rng.randrange(len(steps)), {}, []
    for number, step in enumerate(steps):
        left, _, right = step.partition("=")
        left = re.sub(r"\d+", lambda found: changed.get(found[0], found[0]), left)
        result = expressions.value(expressions.parse(left)) + rng.choice((-10, -2, -1, 1, 2, 10)) * (number == place)
        if result < 0:
            return []
        changed[right] = str(result)
        lines.append(f"{left}={result}")
    return lines


@recipe
def hybrid() -> CausalLM:
    """Chapter 18: thinks, or answers at once, as the prompt says."""
    return thinks_or_not()


def writes_notes(good: bool, width: int, layers: int, steps: int) -> CausalLM:
    """A model that writes thank-you notes, as people do, or as a book of manners has it. A word is about a token."""
    rng = random.Random(0)
    written = [(o.prompt, notes.note(o, rng, k)) for _ in range(10) for o in notes.occasions() for k in (False, True)]
    tokenizer = Tokenizer.train((prompt + note for prompt, note in written), vocab_size=480, special_tokens=[END])
    model = nano(tokenizer, width, layers)
    fine_tune(model, written[good::2], steps, lr=3e-3)
    return model


@recipe
def notes_sft() -> CausalLM:
    """Chapter 16: writes thank-you notes as people do, some well and some not."""
    return writes_notes(good=False, width=64, layers=2, steps=700)


@recipe
def notes_judge() -> CausalLM:
    """Chapter 16: the larger model that judges, from a book of manners."""
    return writes_notes(good=True, width=96, layers=3, steps=500)


if __name__ == "__main__":
    main()
