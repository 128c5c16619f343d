"""What layers compute while answers are sampled: gradients made of it are those of reading the answers again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training import VOCABULARY, tiny_model

from tinymoe import zoo
from tinymoe.backend import using
from tinymoe.posttrain import GRPOConfig, GRPOTrainer, LoraConfig, add_lora, token_logps
from tinymoe.posttrain.rollout import join, rollouts
from tinymoe.posttrain.states import new_states
from tinymoe.tensor import OPS
from tinymoe.text.tokenizer import CharTokenizer

PROMPTS = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [5, 5, 5, 5, 5]]
STOP = 0
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


@pytest.fixture(autouse=True)
def compiled():
    with using("numba") as backend:
        yield backend


def lively(**shape):
    """A model whose distributions are far from uniform, and which stops now and then."""
    return tiny_model(initializer_range=0.4, max_position_embeddings=64, num_hidden_layers=2, **shape)


def sampled(model, prompts=PROMPTS, group_size=4, **options):
    return rollouts(
        model, prompts, group_size, **{"max_new_tokens": 14, "stop": STOP, "seed": 3, "keep_states": True, **options}
    )


def learned(model, batch, states, **options):
    """Log-probabilities, entropies, and the gradients of a sum of both that counts every token differently."""
    for p in model.parameters():
        p.grad = None
    shortest = int(batch.prompt_lengths.min())
    found = token_logps(model, batch.ids, batch.mask, prompt=shortest, states=states, **options)
    weights = np.random.default_rng(1).normal(size=found.logps.shape).astype(np.float32)
    (found.logps * weights + found.entropies * weights[::-1].copy()).sum().backward()
    return [t.numpy() for t in found], {name: p.grad.copy() for name, p in model.named_parameters()}


def assert_the_same(model, batch, **options):
    values, gradients = learned(model, batch, None, **options)
    ours, our_gradients = learned(model, batch, batch.states, **options)
    for mine, theirs in zip(ours, values, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=3e-5)
    largest = max(np.abs(gradient).max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        # Where attention looks at one place alone, the gradients of its queries are what rounding leaves.
        close = 1e-4 * np.abs(gradient).max() + 3e-6 * largest
        np.testing.assert_allclose(our_gradients[name], gradient, rtol=0, atol=close, err_msg=name)


@pytest.mark.parametrize("shape", [{}, {"num_key_value_heads": 2}, {"num_attention_heads": 4}, {"head_dim": 12}])
@pytest.mark.parametrize("stop", [STOP, ()])
def test_gradients_are_those_of_reading_again(shape, stop):
    model = lively(**shape)
    batch = sampled(model, stop=stop, temperature=0.8)
    assert batch.states is not None and (len(set(batch.lengths)) > 1) == (stop == STOP)
    assert_the_same(model, batch, temperature=0.8)


@settings(deadline=None, max_examples=25)
@given(
    heads=st.sampled_from([(2, 1), (4, 2), (3, 3)]), groups=st.integers(1, 4), size=st.integers(1, 6),
    tokens=st.integers(2, 30), longest=st.integers(1, 9), seed=st.integers(0, 99), data=st.data(),
)  # fmt: skip
def test_of_any_shape_and_any_rows(heads, groups, size, tokens, longest, seed, data):
    with using("numba"):
        model = lively(num_attention_heads=heads[0], num_key_value_heads=heads[1], head_dim=8, seed=seed)
        rng = np.random.default_rng(seed)
        prompts = [rng.integers(1, 11, rng.integers(1, longest + 1)).tolist() for _ in range(groups)]
        batch = sampled(model, prompts, size, max_new_tokens=tokens, seed=seed)
        rows = data.draw(st.lists(st.integers(0, len(batch) - 1), min_size=1, max_size=8, unique=True))
        assert_the_same(model, batch.take(np.array(rows)))


def test_with_threads_that_share_the_texts(compiled, monkeypatch):
    model = lively()
    monkeypatch.setattr(compiled, "threads", 2)
    monkeypatch.setattr("tinymoe.nn.parts.LANE_TOKENS", 8)
    monkeypatch.setattr("tinymoe.models.compiled.LANE_PRODUCTS", 1)
    batch = sampled(model, group_size=8)
    assert_the_same(model, batch)
    assert_the_same(model, batch.take(np.arange(0, 24, 2)).take(np.arange(3, 12)))


def test_what_follows_a_prompt_is_not_read_again(monkeypatch):
    model, asked = lively(), OPS["qkv_rope"]
    batch, read = sampled(model, stop=()), []

    def watched(ctx, x, *weights, **options):
        read.append(x.shape)
        return asked(ctx, x, *weights, **options)

    monkeypatch.setitem(OPS, "qkv_rope", watched)
    learned(model, batch, batch.states)
    assert set(read) == {(3, 5, model.config.hidden_size)}


def test_nothing_is_left_of_other_texts_in_what_was_never_written():
    model = lively()
    for layer in (first := sampled(model)).states.layers:
        for array in layer:
            behind = np.arange(array.shape[1]) >= first.states.lengths[:, None]
            array[behind] = np.nan
    assert behind.any()
    assert_the_same(model, first)
    assert_the_same(model, first.take(np.array([7, 2, 3])))


def test_the_same_tokens_are_sampled():
    model = lively()
    kept, plain = sampled(model), sampled(model, keep_states=False)
    assert plain.states is None
    assert kept.completions() == plain.completions() and np.array_equal(kept.logps, plain.logps)


@pytest.mark.parametrize("options", [{"top_p": 0.9}, {"max_new_tokens": 1}])
def test_nothing_is_kept_where_there_is_no_way_back(options):
    assert sampled(lively(), **options).states is None


def test_nothing_is_kept_of_other_layers_than_llamas():
    for name in ("qwen3-nano", "gemma-nano", "gpt2-nano", "mistral-nano", "mixtral-nano"):
        assert sampled(zoo.build(name, vocab_size=VOCABULARY)).states is None, name
    model = lively()
    add_lora(model, LoraConfig(r=2))
    assert sampled(model).states is None
    assert not new_states(lively(attention_bias=True), 2, 3) and new_states(lively(), 2, 3)


def test_nothing_is_kept_where_a_learner_has_written_a_part(monkeypatch):
    model, asked = lively(), OPS["swiglu"]
    monkeypatch.setitem(OPS, "swiglu", lambda ctx, gate, up: asked(ctx, gate, up))
    assert sampled(model).states is None


def test_nothing_is_kept_without_a_compiler():
    with using("numpy"):
        assert sampled(lively()).states is None


def test_of_joined_rollouts_nothing_is_kept():
    batch = sampled(lively())
    assert join([batch]).states is not None and join([batch, batch]).states is None


DIGITS = "0123456789"
PROBLEMS = [{"prompt": f"{digit}=", "answer": digit} for digit in DIGITS]


def trainer(**changes):
    tokenizer = CharTokenizer.train([DIGITS + "="], special_tokens=["<end>"])
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 32}
    model = zoo.build("llama-pico", vocab_size=len(tokenizer), eos_token_id=0, initializer_range=0.2, **shape)
    model.tokenizer = tokenizer
    config = GRPOConfig(**{
        "steps": 3, "num_generations": 4, "generation_batch_size": 16, "max_completion_length": 9,
        "learning_rate": 1e-2, **changes,
    })  # fmt: skip

    def digits(prompts, completions, problems):
        return [float(text.count(problem["answer"])) for text, problem in zip(completions, problems, strict=True)]

    return GRPOTrainer(model, PROBLEMS, [digits], config)


@pytest.mark.parametrize(
    "changes", [{}, {"beta": 0.1}, {"num_iterations": 2}, {"loss_type": "dr_grpo", "temperature": 0.7}]
)
def test_runs_learn_the_same(changes, monkeypatch):
    ours, theirs = trainer(**changes), trainer(**changes)
    for _ in range(3):
        mine = ours.step()
        monkeypatch.setattr("tinymoe.posttrain.rollout.new_states", lambda *_: [])
        other = theirs.step()
        monkeypatch.undo()
        for name in ("loss", "reward", "entropy", "grad_norm"):
            assert mine[name] == pytest.approx(other[name], abs=1e-4), name
    for p, q in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        np.testing.assert_allclose(p.numpy(), q.numpy(), atol=2e-4)


@pytest.mark.parametrize("changes", [{"steps_per_generation": 2}, {"dynamic_sampling": 1}])
def test_nothing_is_kept_of_several_draws_or_for_parts(changes):
    changing = trainer(**changes)
    assert changing.draw().rollouts.states is None and trainer().draw().rollouts.states is not None
    changing.step()


def test_a_reference_reads_for_itself():
    priced = trainer(beta=0.1)
    draw = priced.draw().rollouts
    before = priced.reference_logps(draw)
    for p in priced.model.parameters():
        p.data += 0.1
    np.testing.assert_array_equal(priced.reference_logps(draw), before)


def test_a_step_is_the_gradient_of_what_ops_say():
    """Not only by the fused operations: also where attention and SwiGLU are made of small ones."""
    model = lively()
    batch = sampled(model, stop=())
    _, gradients = learned(model, batch, batch.states)
    with using("numpy"):
        _, expected = learned(model, batch, None)
    for name, gradient in expected.items():
        np.testing.assert_allclose(gradients[name], gradient, atol=1e-4 * np.abs(gradient).max(), err_msg=name)
