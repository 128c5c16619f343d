"""The same models and the same training step in PyTorch, as a careful user writes them.

Parameters have tinymoe's names and shapes, so that both sides can start from the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tinymoe.backend import using
from tinymoe.bench import TrainingTask
from tinymoe.models import CausalLM
from tinymoe.nn import Config


class Attention(nn.Module):
    """Grouped-query attention with rotary positions, by PyTorch's fused kernel."""

    def __init__(self, config: Config):
        super().__init__()
        c = config
        self.heads, self.kv_heads, self.dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, self.heads * self.dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, self.kv_heads * self.dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, self.kv_heads * self.dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.dim, c.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, _ = x.shape
        q = rotate(self.q_proj(x).view(B, T, self.heads, self.dim).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(B, T, self.kv_heads, self.dim).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(B, T, self.kv_heads, self.dim).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: Config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.Module):
    """E SwiGLU blocks: the tokens are sorted by expert once, and each expert multiplies its own."""

    def __init__(self, config: Config):
        super().__init__()
        experts, width, channels = config.num_experts or 0, config.moe_intermediate_size or 0, config.hidden_size
        self.gate_proj = nn.Parameter(torch.empty(experts, width, channels))
        self.up_proj = nn.Parameter(torch.empty(experts, width, channels))
        self.down_proj = nn.Parameter(torch.empty(experts, channels, width))

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        order = chosen.view(-1).argsort(stable=True)
        tokens = order // chosen.shape[1]
        counts = chosen.view(-1).bincount(minlength=len(self.gate_proj)).tolist()
        outputs = [
            F.linear(F.silu(F.linear(rows, gate)) * F.linear(rows, up), down)
            for rows, gate, up, down in zip(
                x[tokens].split(counts), self.gate_proj, self.up_proj, self.down_proj, strict=True
            )
        ]
        answers = torch.cat(outputs) * weights.view(-1)[order, None]
        return torch.zeros_like(x).index_add(0, tokens, answers)


class MoE(nn.Module):
    """A softmax router, the k best experts of each token, their weights scaled to a sum of one."""

    def __init__(self, config: Config):
        super().__init__()
        self.k = config.num_experts_per_tok or 0
        self.gate = nn.Linear(config.hidden_size, config.num_experts or 0, bias=False)
        self.experts = Experts(config)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.view(-1, x.shape[-1])
        weights, chosen = F.softmax(self.gate(rows), dim=-1).topk(self.k)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        return self.experts(rows, weights, chosen).view_as(x)


class Layer(nn.Module):
    """The pre-norm layer of a Llama or a Mixtral."""

    def __init__(self, config: Config):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MoE(config) if config.mlp == "moe" else MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, layers, last norm."""

    def __init__(self, config: Config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        powers = torch.arange(0, config.head_dim, 2) / config.head_dim
        angles = torch.outer(torch.arange(config.max_position_embeddings).float(), config.rope_theta**-powers)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x, T = self.embed_tokens(ids), ids.shape[1]
        for layer in self.layers:
            x = layer(x, self.cos[:T], self.sin[:T])
        return self.norm(x)


class Llama(nn.Module):
    """A decoder with an output layer: the mean cross-entropy of the targets."""

    def __init__(self, config: Config):
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        logits = self.lm_head(self.model(ids))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions of x (B, H, T, D), by cos and sin (T, D/2)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def training(task: TrainingTask, how: str, threads: int) -> Callable[[], float]:
    """A function that makes a training step of a new model and returns its loss.

    how: "eager", "compile", or "transformers", which is Transformers' own Mixtral with its grouped matrix product.
    """
    torch.set_num_threads(threads)
    if how == "transformers":
        return _steps(task, *_mixtral(task))
    model = llama(task)
    return _steps(task, model, torch.compile(model) if how == "compile" else model)


def llama(task: TrainingTask) -> Llama:
    """The model with the weights that tinymoe starts from."""
    model = Llama(task.config)
    with using("numpy"):
        weights = {name: torch.from_numpy(p.data.copy()) for name, p in CausalLM(task.config).named_parameters()}
    model.load_state_dict(weights)
    return model


def _steps(task: TrainingTask, model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], float]:
    """The loop that everybody writes, with the fused AdamW."""
    settings, batches = task.settings, _batches(task)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    betas = (settings.beta1, settings.beta2)
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=1e-8, fused=True)

    def step() -> float:
        ids, targets = next(batches)
        loss = loss_of(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def _batches(task: TrainingTask) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches that tinymoe's trainer draws; drawing them is left out of PyTorch's time by doing it beforehand."""
    made = [task.batch(step) for step in range(128)]
    pairs = [tuple(torch.from_numpy(a.astype(np.int64)) for a in (batch.ids, batch.targets)) for batch in made]
    while True:
        yield from pairs  # pyright: ignore[reportReturnType]


def _mixtral(task: TrainingTask) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    from transformers import MixtralConfig, MixtralForCausalLM

    c = task.config
    config = MixtralConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        intermediate_size=c.moe_intermediate_size,
        num_hidden_layers=c.num_hidden_layers,
        num_attention_heads=c.num_attention_heads,
        num_key_value_heads=c.num_key_value_heads,
        max_position_embeddings=c.max_position_embeddings,
        num_local_experts=c.num_experts,
        num_experts_per_tok=c.num_experts_per_tok,
        sliding_window=None,
        use_cache=False,
    )
    config._experts_implementation = "grouped_mm"
    torch.manual_seed(0)
    model = MixtralForCausalLM(config)

    def loss_of(ids: Tensor, targets: Tensor) -> Any:
        logits: Any = model(ids).logits
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    return model, loss_of


def products(threads: int) -> Callable[[], None]:
    """A float32 product of 1024³ in PyTorch."""
    torch.set_num_threads(threads)
    a, b, out = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.empty(1024, 1024)

    def product() -> None:
        torch.mm(a, b, out=out)

    return product
