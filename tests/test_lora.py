"""LoRA: what is trained, several adapters, merging, files that are damaged or belong elsewhere, and QLoRA."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gradients import check_gradients
from training import VOCABULARY, snapshot, tiny_config, tiny_data, tiny_model, without_timing

import tinymoe as tm
from tinymoe import files
from tinymoe.models import CausalLM, zoo
from tinymoe.models.families import family
from tinymoe.nn.module import Linear, Parameter
from tinymoe.posttrain import adapter_files, lora, nf4
from tinymoe.posttrain.adapter_files import load_adapter, save_adapter
from tinymoe.posttrain.lora import LoraConfig, add_lora
from tinymoe.tensor import Tensor, no_grad
from tinymoe.train import Trainer

IDS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 9))
ALL = LoraConfig(r=3, lora_alpha=6, target_modules="all-linear")
KINDS = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}


def adapted(seed: int = 0, base: Callable[[], CausalLM] = tiny_model, name: str = "default", **settings) -> CausalLM:
    """A model with an adapter that has already learned something, as if."""
    model = add_lora(base(), LoraConfig(**{"r": 3, "target_modules": "all-linear", **settings}), name)
    disturb(model, seed)
    return model


def disturb(model: CausalLM, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        p.data[...] += tm.Tensor(rng.normal(0, 0.1, p.shape).astype(np.float32)).data


def logits(model: CausalLM) -> np.ndarray:
    with no_grad():
        return model(IDS).numpy()


def train(model: CausalLM, steps: int, lr: float = 0.02) -> list[float]:
    optimizer, losses = tm.AdamW(model.parameters(), lr=lr, weight_decay=0.0), []
    data = tiny_data(seed=3)
    for step in range(steps):
        batch = data.batch(8, seed=0, step=step)
        optimizer.zero_grad()
        loss = model.loss(batch.ids, batch.targets, documents=batch.documents)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [False, True])
def test_a_new_adapter_changes_nothing(kind, bias, backend):
    model = tiny_model(attention_bias=bias, mlp_bias=bias)
    before = logits(model)
    assert add_lora(model, LoraConfig(r=3, target_modules="all-linear", **KINDS[kind])) is model
    np.testing.assert_array_equal(logits(model), before)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_adapter_is_trained(kind):
    model = tiny_model()
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    add_lora(model, LoraConfig(r=3, target_modules=["q_proj", "down_proj"], **KINDS[kind]))
    sizes = {"q_proj": (16, 16), "down_proj": (16, 24)}  # (out, in)
    assert model.num_parameters() == sum(3 * (a + b) + a * (kind == "dora") for a, b in sizes.values())
    assert all(".adapters.0.lora_" in name for name, _ in model.named_parameters())
    losses = train(model, 12)
    assert losses[-1] < losses[0]
    for p in model.parameters():
        assert p.grad is not None
    lora.unload(model)
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(p.numpy(), before[name], err_msg=name)


def test_the_seed_decides_what_is_drawn():
    first, again, other = (add_lora(tiny_model(), LoraConfig(r=2), seed=seed) for seed in (1, 1, 2))
    values = [[p.numpy() for p in model.parameters()] for model in (first, again, other)]
    assert all((a == b).all() for a, b in zip(values[0], values[1], strict=True))
    assert any((a != b).any() for a, b in zip(values[0], values[2], strict=True))
    lora_A, lora_B = values[0][:2]
    assert np.abs(lora_A).max() <= 16**-0.5 and np.abs(lora_A).max() > 0.9 * 16**-0.5 and not lora_B.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_gradients(kind, bias, scale, backend):
    """Against finite differences. DoRA's length of the rows counts as a constant: it is held still here."""
    rng = np.random.default_rng(0)
    base = Linear(5, 4, bias=bias, rng=rng, std=0.5)
    base.weight.data = base.weight.data.astype(np.float64)
    layer = lora.LoraLinear(base)
    adapter = lora.new_adapter("default", LoraConfig(r=2, lora_alpha=3, **KINDS[kind]), layer, rng)
    adapter.scale, layer.adapters, layer.active = scale, [adapter], ("default",)
    adapter.lora_B.data[...] = Tensor(rng.standard_normal((4, 2))).data
    length = lora._row_lengths(base.weight + (adapter.lora_B @ adapter.lora_A) * adapter.scaling)
    names = [name for name in ("lora_A", "lora_B", "lora_magnitude_vector") if hasattr(adapter, name)]

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        for name, p in zip(names, parameters, strict=True):
            setattr(adapter, name, p)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lora, "_row_lengths", lambda weight: length)
            return layer(x)

    arrays = [getattr(adapter, name).numpy() for name in names]
    assert all(array.dtype == np.float64 for array in arrays)
    check_gradients(run, rng.standard_normal((2, 3, 5)), *arrays)


def test_gradients_reach_an_output_layer_and_a_matrix_used_by_hand(backend):
    """Both are multiplied by their `weight`, without calling the layer: the loss, and latent attention's cache."""
    model = zoo.build("deepseek-v3-nano", vocab_size=30, seed=0)
    before = logits(model)
    add_lora(model, LoraConfig(r=2, target_modules=["lm_head", "kv_b_proj"]))
    np.testing.assert_array_equal(logits(model), before)
    disturb(model)
    model.loss(IDS, IDS).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    whole, cache = logits(model), model.new_cache()
    pieces = np.concatenate([model(part, cache=cache).numpy() for part in (IDS[:, :4], IDS[:, 4:])], axis=1)
    np.testing.assert_allclose(pieces, whole, atol=1e-4 * np.abs(whole).max())
    assert np.abs(whole - before).max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_merged_and_back(kind, backend):
    model = adapted(**KINDS[kind])
    base = logits(tiny_model())
    apart = logits(model)
    assert np.abs(apart - base).max() > 0.01
    assert lora.merge(model) is model
    np.testing.assert_allclose(logits(model), apart, atol=1e-5)
    with pytest.raises(RuntimeError, match="backward"):
        model.loss(IDS, IDS).backward()
    with lora.adapters_off(model):
        np.testing.assert_array_equal(logits(model), base)
    assert lora.unmerge(model) is model
    np.testing.assert_array_equal(logits(model), apart)
    with lora.adapters_off(model):
        np.testing.assert_array_equal(logits(model), base)


@pytest.mark.parametrize("bias", [False, True])
def test_a_merged_model_is_a_plain_one(bias, tmp_path):
    model = lora.merge(adapted(base=lambda: tiny_model(attention_bias=bias)))
    expected = logits(model)
    count = tiny_model(attention_bias=bias).num_parameters()
    assert lora.unload(model) is model and model.num_parameters() == count
    assert all(type(layer) is Linear for _, layer in lora.named_linears(model))
    np.testing.assert_array_equal(logits(model), expected)
    model.save_pretrained(tmp_path)
    np.testing.assert_array_equal(logits(tm.from_pretrained(tmp_path)), expected)


def test_it_reads_in_pieces_generates_and_shows_itself(backend):
    model = adapted()
    whole, cache = logits(model), model.new_cache()
    pieces = np.concatenate([model(part, cache=cache).numpy() for part in (IDS[:, :4], IDS[:, 4:])], axis=1)
    np.testing.assert_allclose(pieces, whole, atol=1e-5)
    trace = model.trace(IDS)
    np.testing.assert_array_equal(trace.logits, whole)
    assert len(trace.attention) == 1
    apart = model.generate(IDS, max_new_tokens=6, temperature=0)
    np.testing.assert_array_equal(lora.merge(model).generate(IDS, max_new_tokens=6, temperature=0), apart)


def two_adapters() -> CausalLM:
    model = adapted(name="first", r=2, target_modules=["q_proj", "up_proj"])
    add_lora(model, LoraConfig(r=3, target_modules=["q_proj", "down_proj"], use_rslora=True), "second", seed=1)
    disturb(model, seed=5)
    return model


def matrices(model: CausalLM) -> dict[str, np.ndarray]:
    with no_grad():
        return {path: layer.weight.numpy() for path, layer in lora.named_linears(model)}


def test_switching_between_adapters():
    model = two_adapters()
    assert list(lora.adapters(model)) == ["first", "second"]
    second = logits(model)
    lora.set_adapter(model, "first")
    first = logits(model)
    np.testing.assert_array_equal(first, logits(adapted(r=2, target_modules=["q_proj", "up_proj"])))
    lora.set_adapter(model, [])
    np.testing.assert_array_equal(logits(model), logits(tiny_model()))
    lora.set_adapter(model, "second")
    np.testing.assert_array_equal(logits(model), second)
    assert np.abs(first - second).max() > 0.01


def test_several_at_once_add_up():
    base, model = matrices(tiny_model()), two_adapters()
    change = {}
    for name in ("first", "second"):
        lora.set_adapter(model, name)
        change[name] = {path: weight - base[path] for path, weight in matrices(model).items()}
    lora.set_adapter(model, ["first", "second"])
    for path, weight in matrices(model).items():
        np.testing.assert_allclose(weight - base[path], change["first"][path] + change["second"][path], atol=1e-6)
    assert len(model.parameters()) == 8  # two matrices, two layers, two adapters


def test_resting_adapters_are_not_trained_and_wake_up_the_same():
    model = two_adapters()
    mine = model.parameters()
    lora.set_adapter(model, "first")
    assert not {id(p) for p in mine} & {id(p) for p in model.parameters()}
    kept = [p.numpy().copy() for p in mine]
    assert train(model, 3)
    lora.set_adapter(model, "second")
    assert [id(p) for p in model.parameters()] == [id(p) for p in mine]
    for p, before in zip(mine, kept, strict=True):
        assert isinstance(p, Parameter)
        np.testing.assert_array_equal(p.numpy(), before)


@pytest.mark.parametrize("name", ["first", "second"])
def test_an_adapter_is_turned_up_and_down(name):
    base, model = matrices(tiny_model()), two_adapters()
    lora.set_adapter(model, name)
    whole = matrices(model)
    for scale in (0.0, 0.5, -2.0):
        lora.set_scale(model, name, scale)
        for path, weight in matrices(model).items():
            np.testing.assert_allclose(weight - base[path], scale * (whole[path] - base[path]), atol=1e-6)


def test_adapters_are_combined_into_one():
    base, model = matrices(tiny_model()), two_adapters()
    change = {}
    for name in ("first", "second"):
        lora.set_adapter(model, name)
        change[name] = {path: weight - base[path] for path, weight in matrices(model).items()}
    assert lora.combine(model, {"first": 0.75, "second": -0.5}, "both") is model
    assert lora.adapters(model)["both"].r == 5
    for path, weight in matrices(model).items():
        expected = 0.75 * change["first"][path] - 0.5 * change["second"][path]
        np.testing.assert_allclose(weight - base[path], expected, atol=1e-6)
    assert len(model.parameters()) == 2 * 3  # it is active, in the three layers that either adapts


def test_which_layers_are_meant():
    paths = dict(lora.named_linears(zoo.build("qwen2-moe-nano", vocab_size=30, seed=0)))
    start = "model.layers.0"
    assert lora.targeted(paths, ["layers.0.self_attn.q_proj"]) == [f"{start}.self_attn.q_proj"]
    assert len(lora.targeted(paths, ["q_proj"])) == 4
    assert lora.targeted(paths, r".*\.0\..*[qk]_proj") == [f"{start}.self_attn.q_proj", f"{start}.self_attn.k_proj"]
    everything = lora.targeted(paths, "all-linear")
    assert set(everything) == paths.keys() - {"lm_head"}
    assert f"{start}.mlp.shared_experts.gate_proj" in everything and f"{start}.mlp.gate" not in everything
    # a name is whole steps of a path: "gate" is not "shared_expert_gate", "proj" is not "q_proj"
    with pytest.raises(ValueError, match=r"no linear layer is called 'gate', 'proj'; there are q_proj, k_proj, "):
        lora.targeted(paths, ["q_proj", "gate", "proj"])
    with pytest.raises(ValueError, match=r"no linear layer is called '\.\*norm'"):
        lora.targeted(paths, ".*norm")
    with pytest.raises(ValueError, match=r"target_modules: 'q\(' is no regular expression"):
        lora.targeted(paths, "q(")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "r: got 0, expected a whole number ≥ 1"),
        ({"r": True}, "r: got True"),
        ({"r": 2.5}, r"r: got 2\.5"),
        ({"lora_alpha": 0}, "lora_alpha: got 0, expected a number > 0"),
        ({"lora_alpha": "8"}, "lora_alpha: got '8'"),
        ({"lora_alpha": float("nan")}, "lora_alpha: got nan"),
        ({"target_modules": []}, "target_modules: got none"),
        ({"target_modules": ""}, "target_modules: got none"),
        ({"target_modules": 7}, "target_modules: got 7, expected names"),
        ({"target_modules": [7]}, r"target_modules: got \[7\], expected names"),
        ({"bias": "all"}, "bias: got 'all', expected 'none'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        LoraConfig(**settings)


def wrong_uses() -> dict[str, tuple[Callable[[CausalLM], object], str]]:
    config = LoraConfig(r=2)
    return {
        "taken": (lambda m: add_lora(m, config, "default"), "name: got 'default', expected a new one"),
        "nameless": (lambda m: add_lora(m, config, ""), "name: got ''"),
        "target": (lambda m: add_lora(m, LoraConfig(target_modules=["wq"]), "b"), "no linear layer is called 'wq'"),
        "switch": (lambda m: lora.set_adapter(m, "b"), "name: got 'b', expected an adapter of the model: default"),
        "switch to two": (lambda m: lora.set_adapter(m, ["default", "b"]), "name: got 'b'"),
        "scale": (lambda m: lora.set_scale(m, "b", 2), "name: got 'b'"),
        "scale by nothing": (lambda m: lora.set_scale(m, "default", float("nan")), "scale: got nan"),
        "combine": (lambda m: lora.combine(m, {"b": 1}, "c"), "name: got 'b'"),
        "combine none": (lambda m: lora.combine(m, {}, "c"), "weights: got {}, expected one or more adapters"),
        "combine into it": (lambda m: lora.combine(m, {"default": 1}, "default"), "name: got 'default'"),
        "save": (lambda m: save_adapter(m, "never", "b"), "name: got 'b'"),
        "unmerge": (lora.unmerge, "model: its adapters are not merged"),
        "merge twice": (lambda m: lora.merge(lora.merge(m)), "model: its adapters are merged already"),
        "add to merged": (lambda m: add_lora(lora.merge(m), config, "b"), "merged; unmerge them first"),
        "switch merged": (lambda m: lora.set_adapter(lora.merge(m), "default"), "merged; unmerge them first"),
    }


@pytest.mark.parametrize("case", wrong_uses())
def test_wrong_uses(case):
    use, message = wrong_uses()[case]
    model = adapted()
    before, count = logits(model), model.num_parameters()
    with pytest.raises(ValueError, match=message):
        use(model)
    if lora.is_merged(model):
        lora.unmerge(model)
    np.testing.assert_array_equal(logits(model), before)
    assert model.num_parameters() == count


def test_a_model_without_adapters():
    model = tiny_model()
    with pytest.raises(ValueError, match="model: it has no adapters"):
        lora.merge(model)
    with pytest.raises(ValueError, match="name: got 'default', expected an adapter of the model: it has none"):
        lora.set_adapter(model, "default")
    with lora.adapters_off(model):
        logits(model)
    assert lora.adapters(model) == {} and lora.unload(model) is model


def test_dora_works_alone():
    model = adapted(use_dora=True)
    add_lora(model, LoraConfig(r=2), "other")
    with pytest.raises(ValueError, match="'default' is a DoRA adapter: these work alone"):
        lora.set_adapter(model, ["default", "other"])
    with pytest.raises(ValueError, match="expected one or more adapters without DoRA"):
        lora.combine(model, {"default": 1, "other": 1}, "both")


def test_dora_needs_rows_that_have_a_direction():
    model = tiny_model()
    model.model.layers[0].self_attn.v_proj.weight.data[3] = 0
    count = model.num_parameters()
    with pytest.raises(ValueError, match="use_dora: a matrix has a row of zeros"):
        add_lora(model, LoraConfig(use_dora=True))
    assert model.num_parameters() == count and not lora.lora_layers(model)


def test_a_copy_is_a_model_of_its_own():
    model = two_adapters()
    copied, before = copy.deepcopy(model), logits(model)
    disturb(copied)
    assert np.abs(logits(copied) - before).max() > 0.01
    np.testing.assert_array_equal(logits(model), before)
    lora.unload(copied)
    assert copied.num_parameters() == tiny_model().num_parameters()


def test_parameters_that_two_modules_share_stay_shared():
    model = tiny_model()
    first, last = model.model.layers[0].self_attn.q_proj, model.model.layers[0].self_attn.o_proj
    last.weight = first.weight
    lora.freeze(model)
    assert not model.parameters()
    lora.thaw(model)
    assert last.weight is first.weight and isinstance(first.weight, Parameter)


# Files


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded(kind, tmp_path, backend):
    model = adapted(**KINDS[kind])
    save_adapter(model, tmp_path / "a" / "b")
    assert snapshot(tmp_path).keys() == {"a/b/adapter_config.json", "a/b/adapter_model.safetensors"}
    again = tiny_model()
    assert load_adapter(again, tmp_path / "a" / "b") is again
    np.testing.assert_array_equal(logits(again), logits(model))
    assert again.num_parameters() == model.num_parameters()
    assert lora.adapters(again)["default"].use_dora == (kind == "dora")
    save_adapter(again, tmp_path / "c")
    assert snapshot(tmp_path / "a" / "b") == snapshot(tmp_path / "c")


@pytest.mark.parametrize("scale", [0.5, 0.0, -2.0])
def test_one_of_several_is_saved_at_the_scale_it_has(scale, tmp_path):
    model = two_adapters()
    lora.set_scale(model, "second", scale)
    save_adapter(model, tmp_path, "second")
    again = load_adapter(tiny_model(), tmp_path, "another name")
    np.testing.assert_allclose(logits(again), logits(model), atol=1e-6)
    assert list(lora.adapters(again)) == ["another name"]


def test_layers_that_share_a_name_are_listed_whole(tmp_path):
    """One of two layers' q_proj: its last step alone would mean both."""
    path = "model.layers.1.self_attn.q_proj"
    model = adapted(base=lambda: tiny_model(num_hidden_layers=2), target_modules=[path])
    save_adapter(model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == [path]
    again = load_adapter(tiny_model(num_hidden_layers=2), tmp_path)
    np.testing.assert_array_equal(logits(again), logits(model))


@pytest.mark.parametrize("name", sorted(name for name in zoo.list() if name.endswith("nano")))
def test_every_family(name, tmp_path):
    def base() -> CausalLM:
        return zoo.build(name, vocab_size=30, seed=0)

    model = adapted(base=base, r=2)
    kind = family(model.config.model_type)
    if kind.transposed or any(len(entry.ours) > 1 for entry in kind.stacked):
        with pytest.raises(ValueError, match="publishes fused with others, or turned"):
            save_adapter(model, tmp_path)
        assert not list(tmp_path.iterdir())
    else:
        save_adapter(model, tmp_path)
        np.testing.assert_array_equal(logits(load_adapter(base(), tmp_path)), logits(model))
    apart = logits(model)
    np.testing.assert_allclose(logits(lora.merge(model)), apart, atol=1e-4 * np.abs(apart).max())


def test_layers_of_a_fused_family_that_are_not_fused(tmp_path):
    def base() -> CausalLM:
        return zoo.build("phi3-nano", vocab_size=30, seed=0)

    model = adapted(base=base, target_modules=["o_proj", "down_proj"])
    save_adapter(model, tmp_path)
    np.testing.assert_array_equal(logits(load_adapter(base(), tmp_path)), logits(model))
    damage_config(tmp_path, target_modules=["qkv_proj"])
    with pytest.raises(ValueError, match=r"no linear layer is called 'qkv_proj'; .* phi3 publishes fused with others"):
        load_adapter(base(), tmp_path)


def damage_config(folder: Path, **changes: object) -> None:
    file = folder / "adapter_config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in config.items() if value != "gone"}))


def damage_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


def cut_off(name: str, share: float) -> Callable[[Path], object]:
    return lambda f: (f / name).write_bytes((f / name).read_bytes()[: int(share * (f / name).stat().st_size)])


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "no config": (
        lambda f: (f / "adapter_config.json").unlink(),
        FileNotFoundError,
        "adapter_config.json: no such file",
    ),
    "no tensors": (
        lambda f: (f / "adapter_model.safetensors").unlink(),
        FileNotFoundError,
        "adapter_model.safetensors: no such file",
    ),
    "half a config": (cut_off("adapter_config.json", 0.5), ValueError, "adapter_config.json: it is not valid JSON"),
    "half the tensors": (cut_off("adapter_model.safetensors", 0.5), ValueError, "safetensors: it is damaged"),
    "empty": (cut_off("adapter_model.safetensors", 0), ValueError, "safetensors: it is damaged"),
    "a list": (lambda f: (f / "adapter_config.json").write_text("[1]"), ValueError, "it holds a list, expected"),
    "not text": (lambda f: (f / "adapter_config.json").write_bytes(b"\xff\xfe{}"), ValueError, "not valid JSON"),
    "another method": (lambda f: damage_config(f, peft_type="IA3"), ValueError, "peft_type = 'IA3'"),
    "no method": (lambda f: damage_config(f, peft_type="gone"), ValueError, "peft_type is missing"),
    "no rank": (lambda f: damage_config(f, r="gone"), ValueError, "r is missing"),
    "no targets": (lambda f: damage_config(f, target_modules=None), ValueError, "target_modules is missing"),
    "wrong rank": (
        lambda f: damage_config(f, r=4),
        ValueError,
        r"q_proj.lora_A.weight has shape \(3, 16\), expected \(4, 16\)",
    ),
    "rank is text": (lambda f: damage_config(f, r="3"), ValueError, "r: got '3', expected a whole number"),
    "biases too": (lambda f: damage_config(f, bias="all"), ValueError, "bias: got 'all', expected 'none'"),
    "ranks by layer": (
        lambda f: damage_config(f, rank_pattern={"q_proj": 2}),
        ValueError,
        r"rank_pattern = {'q_proj': 2} \(not supported\)",
    ),
    "whole modules": (lambda f: damage_config(f, modules_to_save=["lm_head"]), ValueError, "modules_to_save"),
    "another base": (
        lambda f: damage_config(f, init_lora_weights="pissa"),
        ValueError,
        r"init_lora_weights = 'pissa' \(it changes the base model\)",
    ),
    "unknown target": (lambda f: damage_config(f, target_modules=["wq"]), ValueError, "no linear layer is called 'wq'"),
    "DoRA without lengths": (lambda f: damage_config(f, use_dora=True), ValueError, "missing .*lora_magnitude_vector"),
    "fewer targets": (
        lambda f: damage_config(f, target_modules=["v_proj"]),
        ValueError,
        r"unexpected base_model\.model\.model\.layers\.0\.mlp\.down_proj\.lora_A\.weight; .*; and 8 more",
    ),
    "a tensor less": (lambda f: damage_tensors(f, lambda t: t.pop(KEY)), ValueError, f"missing {KEY}"),
    "a tensor more": (lambda f: damage_tensors(f, lambda t: t.update(x=t[KEY])), ValueError, "unexpected x"),
    "whole numbers": (
        lambda f: damage_tensors(f, lambda t: t.update({KEY: t[KEY].astype(np.int64)})),
        ValueError,
        f"{KEY} is stored as I64",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_files(case, tmp_path):
    damage, kind, message = DAMAGES[case]
    save_adapter(adapted(), tmp_path)
    damage(tmp_path)
    model = tiny_model()
    before, count = logits(model), model.num_parameters()
    with pytest.raises(kind, match=message):
        load_adapter(model, tmp_path)
    np.testing.assert_array_equal(logits(model), before)
    assert model.num_parameters() == count and not lora.lora_layers(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 32}, r"lora_A.weight has shape \(3, 16\), expected \(3, 32\)"),
        ({"num_hidden_layers": 2}, r"missing base_model\.model\.model\.layers\.1\."),
    ],
)
def test_the_wrong_base(changes, message, tmp_path):
    save_adapter(adapted(), tmp_path)
    with pytest.raises(ValueError, match=f"the adapter does not fit the model: .*{message}"):
        load_adapter(tiny_model(**changes), tmp_path)


def test_a_good_adapter_outlives_a_failed_save(tmp_path, monkeypatch):
    model = adapted()
    save_adapter(model, tmp_path)
    before = snapshot(tmp_path)
    disturb(model, seed=9)

    def fail(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        save_adapter(model, tmp_path)
    assert snapshot(tmp_path) == before


def test_every_file_is_written_whole(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(adapter_files, "write_atomically", lambda path, data: written.append(Path(path).name))
    save_adapter(adapted(), tmp_path)
    assert written == ["adapter_model.safetensors", "adapter_config.json"] and not list(tmp_path.iterdir())


# Training


def test_a_trainer_trains_the_adapter():
    model = add_lora(tiny_model(), ALL)
    base = {path: layer.base.weight.numpy().copy() for path, layer in lora.lora_layers(model).items()}
    history = Trainer(model, tiny_data(), tiny_config(steps=20)).run(progress=False)
    assert history[-1]["val_loss"] < history[3]["val_loss"]
    for path, layer in lora.lora_layers(model).items():
        np.testing.assert_array_equal(layer.base.weight.numpy(), base[path])


def test_a_run_of_adapters_is_resumed_exactly(tmp_path):
    whole = add_lora(tiny_model(), ALL)
    expected = Trainer(whole, tiny_data(), tiny_config(), tmp_path / "whole").run(progress=False)
    config, first = tiny_config(), Trainer(add_lora(tiny_model(), ALL), tiny_data(), tiny_config(), tmp_path / "two")
    for _ in range(5):
        first.step()
    first.save()
    assert not list(tmp_path.glob("two/checkpoints/*/model.safetensors")), "the base does not change"
    resumed = Trainer(add_lora(tiny_model(), ALL), tiny_data(), config, tmp_path / "two")
    assert resumed.resume() == 5
    history = resumed.run(progress=False)
    assert without_timing(history) == without_timing(expected)[5:]
    np.testing.assert_array_equal(logits(resumed.model), logits(whole))
    other = Trainer(add_lora(tiny_model(), LoraConfig(r=3)), tiny_data(), config, tmp_path / "two")
    with pytest.raises(ValueError, match=r"parameters are not those of the model; model\.layers\.0\.mlp"):
        other.resume()


def test_a_model_with_adapters_is_not_saved_as_if_it_were_plain(tmp_path):
    for model in (adapted(), lora.merge(adapted()), nf4.quantize_model(tiny_model())):
        with pytest.raises(ValueError, match="model: it has adapters or quantized matrices; save the adapter"):
            model.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def trained_base() -> CausalLM:
    """A model that has learned one language, in which each token follows from the one before."""
    model = tiny_model(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
    Trainer(model, tiny_data(seed=1), tiny_config(steps=80, lr=0.005)).run(progress=False)
    return model


def other_language(seed: int, rows: int = 16) -> np.ndarray:
    """Texts in which each token follows from the one before by another rule, but for some noise: (rows, 9)."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, VOCABULARY, (rows, 9))
    for t in range(1, 9):
        ids[:, t] = np.where(rng.random(rows) < 0.1, ids[:, t], (5 * ids[:, t - 1] + 2) % VOCABULARY)
    return ids


def fine_tune(model: CausalLM, steps: int = 80) -> list[float]:
    """Losses on texts that are not trained on: before and after."""
    test = other_language(10_000, rows=200)

    def test_loss() -> float:
        with no_grad():
            return model.loss(test[:, :-1], test[:, 1:]).item()

    before, optimizer = test_loss(), tm.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    for step in range(steps):
        ids = other_language(step)
        optimizer.zero_grad()
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()
    return [before, test_loss()]


def test_qlora_learns_as_lora_does():
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")
    full = fine_tune(add_lora(trained_base(), config))
    quantized = nf4.quantize_model(trained_base())
    four_bits = fine_tune(add_lora(quantized, config))
    assert full[1] < 0.5 * full[0] and four_bits[1] < 0.5 * four_bits[0]
    assert four_bits[1] < 1.01 * full[1]
    bytes_now, bytes_before = nf4.quantized_bytes(quantized)
    assert bytes_now <= 0.14 * bytes_before


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_on_a_quantized_model(kind, tmp_path, backend):
    def base() -> CausalLM:
        return nf4.quantize_model(tiny_model(attention_bias=True))

    before = logits(base())
    np.testing.assert_array_equal(logits(add_lora(base(), LoraConfig(r=2, **KINDS[kind]))), before)
    model = adapted(base=base, **KINDS[kind])
    model.loss(IDS, IDS).backward()
    assert all(p.grad is not None for p in model.parameters())
    apart = logits(model)
    np.testing.assert_allclose(logits(lora.merge(model)), apart, atol=1e-5)
    np.testing.assert_array_equal(logits(lora.unmerge(model)), apart)
    save_adapter(model, tmp_path)
    np.testing.assert_array_equal(logits(load_adapter(base(), tmp_path)), apart)
    with lora.adapters_off(model):
        np.testing.assert_array_equal(logits(model), before)
    lora.unload(model)
    assert isinstance(model.model.layers[0].self_attn.q_proj, nf4.QuantizedLinear)
    np.testing.assert_array_equal(logits(model), before)
