"""The commands of post-training: what they write, that they resume exactly, and how they refuse."""

import dataclasses
import json
import shutil
import string

import numpy as np
import pytest
from training import snapshot

from tinymoe import cli, posttrain
from tinymoe.backend import using
from tinymoe.cli import data, settings
from tinymoe.models import from_pretrained, zoo
from tinymoe.posttrain import tasks
from tinymoe.text.tokenizer import CharTokenizer
from tinymoe.train.trainer import TrainConfig

SHAPE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY = ["--steps", 4, "--checkpoint-every", 2, "--eval-every", 2, "--quiet"]
SAMPLING = ["--generation-batch-size", 8, "--max-completion-length", 6]
CONFIGS = (
    TrainConfig,
    posttrain.DPOConfig,
    posttrain.RewardConfig,
    posttrain.GRPOConfig,
    posttrain.PPOConfig,
    posttrain.DistillConfig,
)


@pytest.fixture(autouse=True)
def numpy_backend(monkeypatch):
    monkeypatch.delenv("TINYMOE_DEBUG", raising=False)
    with using("numpy"):
        yield


def lines(file, records):
    file.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model folder, a larger teacher, a model with a template, a reward model, and files of every kind."""
    folder = tmp_path_factory.mktemp("place")
    tokenizer = CharTokenizer.train([string.printable[:95] + "\n"], special_tokens=["<|endoftext|>"])
    with using("numpy"):
        for name, seed, width in (("start", 0, 16), ("teacher", 1, 32)):
            sizes = {**SHAPE, "hidden_size": width, "num_key_value_heads": 2, "max_position_embeddings": 128}
            model = zoo.build("llama-pico", tokenizer.vocab_size, seed, **sizes, eos_token_id=0)
            model.tokenizer = tokenizer
            model.save_pretrained(folder / name)
        model = zoo.build("gpt2-nano", tokenizer.vocab_size, eos_token_id=0)
        model.tokenizer = tokenizer
        model.save_pretrained(folder / "gpt2")
        lines(folder / "talks.jsonl", [{"instruction": f"Say {n}.", "output": str(n)} for n in range(30)])
        lines(folder / "pairs.jsonl", [{"prompt": f"{n}?", "chosen": f"{n}.", "rejected": "No."} for n in range(30)])
        lines(folder / "problems.jsonl", [{"prompt": f"{n}+1=?", "answer": n + 1, "steps": ["a"]} for n in range(30)])
        assert run(*sft(folder, folder / "chat")) == 0
        arguments = ["reward", "--model", folder / "start", "--data", folder / "pairs.jsonl", "--out", folder / "judge"]
        assert run(*arguments, *TINY) == 0
    return folder


def run(*arguments):
    return cli.main([str(a) for a in arguments])


def sft(place, out, model="start", template="chatml"):
    return [
        *("sft", "--model", place / model, "--data", place / "talks.jsonl", "--out", out),
        *("--template", template, "--batch-size", 2, *TINY),
    ]


def command(name, place, out, *flags, model="start", teacher="teacher"):
    """A small run of each command."""
    file = {"sft": "talks", "dpo": "pairs", "reward": "pairs"}.get(name, "problems")
    own = {
        "sft": ["--template", "chatml", "--batch-size", 2],
        "dpo": ["--batch-size", 4],
        "reward": ["--batch-size", 4],
        "ppo": SAMPLING,
        "grpo": [*SAMPLING, "--num-generations", 4],
        "distill": ["--teacher", place / teacher, "--batch-size", 4, "--max-new-tokens", 6],
    }
    start = [name, "--model", place / model, "--data", place / f"{file}.jsonl", "--out", out]
    return [*start, *own[name], *TINY, *flags]


def refused(capsys):
    """The one line of a refusal; it is the last one on stderr."""
    shown = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in shown if line.startswith("tinymoe: error: ")]
    assert errors == shown[-1:], shown
    return errors[0].removeprefix("tinymoe: error: ")


def read_metrics(run):
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{name: value for name, value in m.items() if name not in ("tokens_per_s", "seconds")} for m in history]


def request(run):
    return json.loads((run / "run.json").read_text("utf-8"))


RUNS = {
    "sft": [],
    "sft, adapters": ["--lora", 2, "--template", "chatml"],
    "dpo": [],
    "dpo, QLoRA": ["--lora", 2, "--nf4", "--loss-type", "ipo"],
    "reward": [],
    "ppo": ["--kl-coef", 0.1, "--target", 0.5],
    "grpo": ["--beta", 0.1, "--num-iterations", 2],
    "grpo, adapters": ["--lora", 2, "--lora-alpha", 8, "--lora-targets", "q_proj,v_proj", "--beta", 0.1],
    "distill": ["--lmbda", 0.5],
}


@pytest.mark.parametrize("which", RUNS)
def test_a_resumed_run_ends_like_an_unbroken_one(which, place, tmp_path, capsys):
    name, adapted = which.split(",")[0], "," in which
    arguments = [name, place, *RUNS[which]], {"model": "chat" if which == "sft, adapters" else "start"}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    start = snapshot(place / arguments[1]["model"])
    for out in (whole, parts):
        assert run(*command(name, place, out, *RUNS[which], "--resume", **arguments[1])) == 0
    assert "nothing to resume" in capsys.readouterr().err
    history = read_metrics(whole)
    assert [m["step"] for m in history] == [1, 2, 3, 4] and all(np.isfinite(m["loss"]) for m in history)
    judged = "eval_reward" if name in ("grpo", "ppo") else "val_loss"
    assert [m["step"] for m in history if judged in m] == [2, 4]

    shutil.rmtree(parts / "checkpoints/step-000004")
    for file in (
        ("adapter_model.safetensors", "adapter_config.json") if adapted else ("model.safetensors", "config.json")
    ):
        (parts / file).unlink()
    assert run(*command(name, place, parts, *RUNS[which], "--resume", **arguments[1])) == 0
    assert "resumed at step 2 of 4" in capsys.readouterr().err
    assert read_metrics(parts) == history
    ended, expected = snapshot(parts), snapshot(whole)
    assert ended.keys() == expected.keys()
    weights = [file for file in expected if file.endswith(".safetensors")]
    assert weights and all(ended[file] == expected[file] for file in weights)

    assert run(*command(name, place, parts, *RUNS[which], "--resume", **arguments[1])) == 0
    assert snapshot(parts) == ended
    assert snapshot(place / arguments[1]["model"]) == start
    assert run(*command(name, place, parts, *RUNS[which], **arguments[1])) == 2
    assert "already holds a run; add --resume" in refused(capsys) and snapshot(parts) == ended


def test_every_setting_of_a_trainer_is_a_flag_with_a_help():
    fields = {config: {field.name for field in dataclasses.fields(config)} for config in CONFIGS}
    hidden = {"stop", "reward_weights", "solution_field"}
    shared = {name for names in fields.values() for name in names}
    for config, names in fields.items():
        for name in names - hidden:
            assert settings.HELP.get(f"{config.__name__}.{name}") or settings.HELP.get(name), (
                f"{config.__name__}.{name}"
            )
    for key in settings.HELP:
        config, _, name = key.rpartition(".")
        known = fields[getattr(posttrain, config)] if config else shared
        assert name in known, f"{key} is no setting any more"


@pytest.mark.parametrize("name", ["sft", "dpo", "reward", "ppo", "grpo", "distill"])
def test_help_names_the_flags_and_their_defaults(name, capsys):
    with pytest.raises(SystemExit) as ended:
        run(name, "--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    for flag in (
        "--model",
        "--data",
        "--out",
        "--resume",
        "--quiet",
        "--backend",
        "--steps",
        "--learning-rate",
        "--lr",
    ):
        assert flag in shown
    assert "(default: 25)" in shown or name == "sft"
    assert ("--lora" in shown) == (name not in ("ppo", "reward"))
    assert ("--no-scale-rewards" in shown) == (name == "grpo")


def test_a_template_brings_its_tokens_and_goes_along(place, tmp_path, capsys):
    before, tuned = from_pretrained(place / "start"), from_pretrained(place / "chat")
    assert tuned.tokenizer.vocab_size == tuned.config.vocab_size == before.config.vocab_size + 2
    assert tuned.config.eos_token_id == tuned.tokenizer.special_tokens["<|im_end|>"]
    assert request(place / "chat")["template"] == "chatml"
    assert run(*command("grpo", place, tmp_path / "run", "--reward", "format", model="chat")) == 0
    assert "new tokens" not in capsys.readouterr().err
    assert request(tmp_path / "run")["template"] == "chatml"
    prompt = read_metrics(tmp_path / "run")[0]["rollouts"][0]["prompt"]
    assert prompt.startswith("<|im_start|>user\n") and prompt.endswith("+1=?<|im_end|>\n<|im_start|>assistant\n")
    assert run(*command("dpo", place, tmp_path / "other", "--template", "qwen3", model="chat")) == 0
    assert request(tmp_path / "other")["template"] == "qwen3"


def test_only_answers_are_learned_and_a_task_is_written_as_it_is_without_a_template(place, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr("tinymoe.train.trainer.Trainer.run", lambda self, **_: seen.update(data=self.data))
    arguments = ["--data", "arithmetic:1", "--problems", 20, "--out", tmp_path / "run", "--context", 100, *TINY]
    run("sft", "--model", place / "start", *arguments)
    ids, targets, _ = seen["data"].train.batch(slice(0, 1))
    tokenizer = from_pretrained(place / "start").tokenizer
    text = tokenizer.decode(ids[0])
    problem = next(p for p in tasks.problems("arithmetic", count=20, level=1) if p.prompt + p.tagged in text)
    learned = tokenizer.decode(targets[0][targets[0] >= 0])
    assert problem.tagged + "<|endoftext|>" in learned and problem.prompt not in learned


def test_adapters_leave_the_model_alone_and_are_merged_where_it_is_used(place, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(*command("dpo", place, out, "--lora", 2, "--lora-alpha", 12, "--lr", 0.1)) == 0
    assert not (out / "config.json").exists()
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 12) and "q_proj" in config["target_modules"]
    base, ids = from_pretrained(place / "start"), [[5, 6, 7]]
    plain = base(ids).numpy()
    adapted = posttrain.load_adapter(base, out)(ids).numpy()
    assert run("export", out, "--to", "hf", "--out", tmp_path / "merged") == 0
    merged = from_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(merged(ids).numpy(), adapted, atol=1e-5)
    assert np.abs(merged(ids).numpy() - plain).max() > 1e-3
    assert run("generate", "--model", out, "--prompt", "a", "--max-new-tokens", 2) == 0
    assert run(*command("grpo", place, tmp_path / "next", model=out)) == 0
    capsys.readouterr()

    record = request(out)
    (out / "run.json").write_text("{")
    assert run("generate", "--model", out, "--prompt", "a") == 2
    assert "run.json: it is damaged" in refused(capsys)
    (out / "run.json").write_text(json.dumps({**record, "model": str(tmp_path / "gone")}))
    assert run("generate", "--model", out, "--prompt", "a") == 2
    assert "its base model" in refused(capsys)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (out / name).unlink()
    assert run("generate", "--model", out, "--prompt", "a") == 2
    assert "is unfinished; finish it first, with --resume" in refused(capsys)


def test_a_learned_reward_and_weights(place, tmp_path):
    rewards = f"correct,{place / 'judge'}:0.5,format:0.25"
    assert run(*command("grpo", place, tmp_path / "run", "--reward", rewards)) == 0
    step = read_metrics(tmp_path / "run")[0]
    parts = [step[f"rewards/{name}/mean"] for name in ("correct", "judge", "format")]
    assert parts[1] != 0
    assert step["reward"] == pytest.approx(parts[0] + 0.5 * parts[1] + 0.25 * parts[2])


def test_a_run_does_not_go_on_as_another(place, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(*command("grpo", place, out, "--lora", 2)) == 0
    before = snapshot(out)
    for name, flags, options, message in (
        ("sft", ["--lora", 2, "--template", "qwen3"], {}, "--lora: the tokenizer lacks 8 tokens"),
        ("dpo", ["--lora", 2], {}, "--resume: the run in"),
        ("grpo", ["--lora", 4], {}, "--lora: the run in"),
        ("grpo", ["--lora", 2, "--lora-alpha", 3], {}, "--lora-alpha: the run in"),
        ("grpo", ["--lora", 2, "--nf4"], {}, "--nf4: the run in"),
        ("grpo", ["--lora", 2, "--reward", "format"], {}, "--reward: the run in"),
        ("grpo", ["--lora", 2], {"model": "teacher"}, "--model: the run in"),
        ("grpo", ["--lora", 2], {"model": "chat"}, "--template: the run in"),
        ("grpo", ["--lora", 2, "--lr", 0.5], {}, "config learning_rate: the checkpoint"),
        ("grpo", ["--lora", 2, "--problems", 10], {}, "data: the checkpoint"),
    ):
        assert run(*command(name, place, out, *flags, "--resume", **options)) == 2
        assert message in refused(capsys)
        assert snapshot(out) == before


REFUSED = {
    "no such model": (["grpo"], {"model": "nowhere"}, "--model: "),
    "no such data": (["grpo", "--data", "no.jsonl"], {}, "--data: got 'no.jsonl', expected a file, or a task"),
    "an unknown level": (["grpo", "--data", "arithmetic:9"], {}, "level: got 9, expected 1 to 4"),
    "a level that is none": (["grpo", "--data", "arithmetic:x"], {}, "--data: got the level 'x', expected a number"),
    "too many problems": (["grpo", "--data", "countdown:1", "--problems", 999], {}, "count: got 999"),
    "tools without a loop": (["grpo", "--data", "tools:1"], {}, "whose calls only sft with"),
    "an unknown reward": (["grpo", "--reward", "nice"], {}, "--reward: got 'nice', expected correct, format, or"),
    "a reward that is no model": (["grpo", "--reward", "."], {}, "--reward: . has no tokenizer.json"),
    "no answers": (["grpo", "--data", "prompts"], {}, "--reward: got 'correct', but some problems have neither"),
    "a template that is not there": (["sft", "--template", "chatxl"], {}, "there is no chat template 'chatxl'"),
    "alpha alone": (["grpo", "--lora-alpha", 3], {}, "--lora-alpha: it needs --lora R"),
    "no rank": (["grpo", "--lora", 0], {}, "r: got 0, expected a whole number"),
    "fused layers": (["grpo", "--lora", 2], {"model": "gpt2"}, "--lora-targets: gpt2 publishes"),
    "four bits alone": (["grpo", "--nf4"], {}, "--nf4: it needs --lora R"),
    "a layer that is not there": (["grpo", "--lora", 2, "--lora-targets", "w"], {}, "target_modules: no linear layer"),
    "a bad setting": (["grpo", "--num-generations", 3], {}, "generation_batch_size: got 8, expected a multiple"),
    "a short model": (["grpo", "--max-completion-length", 500], {}, "max_completion_length: got 500 after prompts"),
    "a short row": (["sft", "--context", 8], {}, "--context: got 8, but a conversation takes"),
    "another vocabulary": (["distill"], {"model": "chat"}, "teacher: got a vocabulary of"),
    "no teacher": (["distill", "--teacher", "nowhere"], {}, "--teacher: nowhere is no folder"),
    "pairs of another kind": (["dpo", "--data", "talks"], {}, "line 1 has prompt None, expected a text"),
    "no pairs": (["dpo", "--data", "empty"], {}, "holds no pairs"),
    "a weight that is none": (["grpo", "--reward", "correct:x"], {}, "--reward: got 'correct:x', expected correct"),
    "few conversations": (["sft", "--problems", 9], {}, "holds 9 conversations, expected at least 10"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_line_and_writes_nothing(case, place, tmp_path, monkeypatch, capsys):
    (name, *flags), options, message = REFUSED[case]
    lines(tmp_path / "prompts.jsonl", [{"prompt": "Hello"}] * 20)
    (tmp_path / "empty.jsonl").write_text("")
    files = {name: tmp_path / f"{name}.jsonl" for name in ("prompts", "empty")} | {"talks": place / "talks.jsonl"}
    monkeypatch.chdir(tmp_path)
    flags = [files.get(flag, flag) for flag in flags]
    assert run(*command(name, place, tmp_path / "run", *flags, **options)) == 2
    assert message in refused(capsys)
    assert not (tmp_path / "run").exists()


def test_a_model_with_several_ends_closes_answers_with_the_first(place, tmp_path):
    model = from_pretrained(place / "chat")
    model.config = dataclasses.replace(model.config, eos_token_id=[96, 97])
    model.save_pretrained(tmp_path / "ends")
    assert run(*command("reward", place, tmp_path / "judge", model=tmp_path / "ends")) == 0
    for name in ("dpo", "distill"):
        assert run(*command(name, place, tmp_path / name, model=tmp_path / "ends", teacher=tmp_path / "ends")) == 0
    assert run(*command("ppo", place, tmp_path / "ppo", "--reward", tmp_path / "judge", model=tmp_path / "ends")) == 0


def test_conversations_need_a_template(place, tmp_path, capsys):
    arguments = ["--data", place / "talks.jsonl", "--out", tmp_path / "run", *TINY]
    assert run("sft", "--model", place / "start", *arguments) == 2
    assert refused(capsys).startswith("--template: got none, expected one to write conversations in: chatml, llama2")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("holds", ["start", "an adapter"])
def test_a_model_is_never_written_over(holds, place, tmp_path, capsys):
    out = tmp_path / "kept"
    shutil.copytree(place / "start", out)
    if holds == "an adapter":
        (out / "config.json").rename(out / "adapter_config.json")
    before = snapshot(out)
    for flags, message in (([], "already holds a run"), (["--resume"], "holds a model and no run to resume")):
        assert run(*command("dpo", place, out, *flags)) == 2
        assert message in refused(capsys)
    assert snapshot(out) == before


def test_a_model_whose_texts_never_end_needs_a_template(place, tmp_path, capsys):
    model = from_pretrained(place / "start")
    model.tokenizer = CharTokenizer.train([string.printable[:95] + "\n"], special_tokens=["<s>"])
    model.config = dataclasses.replace(model.config, eos_token_id=None)
    model.save_pretrained(tmp_path / "endless")
    assert run(*command("grpo", place, tmp_path / "run", model=tmp_path / "endless")) == 2
    assert "--model: it has no token that ends a text; choose a --template" in refused(capsys)
    assert run(*command("sft", place, tmp_path / "run", model=tmp_path / "endless")) == 0


def test_a_number_of_problems_is_one(place, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(*command("grpo", place, tmp_path / "run", "--problems", 0))
    assert refused(capsys) == "argument --problems: got '0', expected a whole number ≥ 1"


def test_a_longer_conversation_can_be_cut(place, tmp_path):
    assert run(*command("sft", place, tmp_path / "run", "--context", 8, "--cut")) == 2  # nothing of an answer is left
    assert run(*command("sft", place, tmp_path / "run", "--context", 60, "--cut")) == 0


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"answer": 3}, "has the prompt '', expected a text"),
        ({"prompt": "a", "answer": [3]}, "has the answer [3], expected a text or a number"),
        ({"prompt": "a", "given": "12"}, "has the given '12', expected a list of whole numbers"),
        ({"prompt": "a", "target": "x"}, "has the target 'x', expected a whole number"),
        ({"prompt": "a", "steps": [1]}, "has the steps [1], expected a list of texts"),
        (["a"], "has the prompt '', expected a text"),
    ],
)
def test_a_problem_that_is_none_is_named(record, message, tmp_path):
    lines(tmp_path / "x.jsonl", [{"prompt": "fine"}, record])
    with pytest.raises(ValueError, match="line 2") as error:
        data.read_problems(str(tmp_path / "x.jsonl"), None, 0)
    assert message in str(error.value)


def test_held_out_problems_are_others(place):
    train, test = data.read_problems("countdown:1", None, 0)
    assert 80 < len(train) < 1000 and 15 < len(test) <= 100
    assert not {problem.key for problem in train} & {problem.key for problem in test}
    train, test = data.read_problems(str(place / "problems.jsonl"), 20, 0)
    assert (len(train), len(test)) == (18, 2) and not {p.prompt for p in train} & {p.prompt for p in test}
    assert (train[0].answer, train[0].solution) == ("1", "a\nAnswer: 1")
    assert len(data.read_problems("letters:3", 30, 0)[0]) == 30


@pytest.mark.parametrize("template", [None, "chatml", "qwen3", "deepseek-r1", "gpt-oss", "llama3"])
def test_a_solution_follows_its_prompt_in_every_template(template):
    (problem,) = tasks.problems("arithmetic", count=1)
    text = data.solved(problem, template)
    assert problem.prompt in text["prompt"] and problem.answer not in text["prompt"].replace(problem.prompt, "")
    for step in problem.steps:
        assert text["solution"].count(step) == 1
    assert text["solution"].removesuffix("</answer>").endswith(problem.answer)
    assert data.in_template(problem, template).prompt == text["prompt"]


def test_calls_of_tools_are_learned_in_a_template_that_has_them(place, tmp_path, capsys):
    arguments = ["--data", "tools:1", "--problems", 20, "--context", 1000, *TINY, "--batch-size", 2]
    model = from_pretrained(place / "start")
    model.config = dataclasses.replace(model.config, max_position_embeddings=1024)
    model.save_pretrained(tmp_path / "long")
    start = ["sft", "--model", tmp_path / "long", *arguments]
    assert run(*start, "--template", "qwen3", "--out", tmp_path / "run") == 0
    capsys.readouterr()
    assert run(*start, "--template", "chatml", "--out", tmp_path / "other") == 2
    assert "no place for" in refused(capsys)
    assert run(*start, "--out", tmp_path / "other") == 2
    assert "whose calls only sft with a --template can learn" in refused(capsys)
    assert not (tmp_path / "other").exists()


def test_a_tuned_model_answers_in_its_template(place, capsys):
    arguments = ["generate", "--chat", "--model", place / "chat", "--prompt", "Say 3.", "--max-new-tokens", 10]
    texts = []
    for seed in (1, 1, 2):
        assert run(*arguments, "--seed", seed) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0]) <= 11 and "Say 3." not in texts[0] and "<|im_end|>" not in texts[0]
    assert run(*arguments) == 0


def test_a_model_may_call_the_calculator(place, monkeypatch, capsys):
    asked = '{"name": "calculator", "arguments": {"expression": "6*7"}}'
    said = [f"<think>\nHm.\n</think>\n\n<tool_call>\n{asked}\n</tool_call>"]
    seen = []

    def policy(model, template, **options):
        seen.append((template, [tool["function"]["name"] for tool in options["tools"]]))
        return lambda talks: [said.pop(0) if said else "It is " + talks[0][-1]["content"]]

    monkeypatch.setattr("tinymoe.posttrain.agents.model_policy", policy)
    arguments = ["generate", "--chat", "--model", place / "chat", "--template", "qwen3", "--prompt", "6*7=?"]
    assert run(*arguments, "--tools", "calculator") == 0
    shown = capsys.readouterr()
    assert shown.out == "It is 42\n" and seen == [("qwen3", ["calculator"])]
    assert shown.err == "[thinks] Hm.\n[calculator] 42\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--chat", "--top-k", 3], "--top-k: it does not go together with --chat"),
        (["--chat", "--repetition-penalty", 1.1], "--repetition-penalty: it does not go together"),
        (["--chat", "--tools", "calculator"], "template 'chatml' has no place for tools"),
        (["--chat", "--template", "qwen3"], "the tokenizer lacks <think>"),
        (["--chat", "--prompt", "a" * 200], "--prompt: it leaves the model no room to answer"),
        (["--chat", "--model", "start"], "--template: got none, and"),
        (["--template", "qwen3"], "--template: it needs --chat"),
        (["--tools", "calculator"], "--tools: it needs --chat"),
    ],
)
def test_a_chat_that_cannot_be_is_refused(flags, message, place, capsys):
    flags = [place / "start" if flag == "start" else flag for flag in flags]
    assert run("generate", "--model", place / "chat", "--prompt", "a", *flags) == 2
    assert message in refused(capsys)
