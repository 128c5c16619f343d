"""Who published each model of the zoo, when, and under which license its weights may be used.

As the publishers' announcements and model cards have it. Of a license that was changed later, the one that holds today.
"""

from __future__ import annotations

from dataclasses import dataclass

OPEN_SOURCE = "open source"  # approved by the Open Source Initiative: for any use, by anybody
CONDITIONS = "conditions"  # the weights may be used commercially, within terms of the publisher's own
RESEARCH = "research only"

# Each license, its kind, and what it asks beyond naming the authors.
LICENSES: dict[str, tuple[str, str]] = {
    "MIT": (OPEN_SOURCE, "nothing more"),
    "Apache-2.0": (OPEN_SOURCE, "nothing more; it grants the patents too"),
    "Modified MIT": (CONDITIONS, "products with over 100 million users a month, or 20 million dollars, show the name"),
    "BigScience RAIL 1.0": (CONDITIONS, "a list of uses is forbidden, and has to be passed on"),
    "BigCode OpenRAIL-M": (CONDITIONS, "a list of uses is forbidden, and has to be passed on"),
    "Falcon 180B TII": (CONDITIONS, "a list of uses is forbidden; to offer it as a service takes a license"),
    "Falcon 2 11B TII": (CONDITIONS, "a list of uses is forbidden, which TII may change"),
    "LLaMA": (RESEARCH, "weights on application, not for commercial use"),
    "Llama 2 Community": (CONDITIONS, "a list of uses is forbidden; no training of other models; 700 million users"),
    "Llama 3 Community": (CONDITIONS, "as Llama 2; products and models made with it carry its name"),
    "Llama 3.1 Community": (CONDITIONS, "as Llama 3, but its outputs may train other models, which carry its name"),
    "Llama 3.2 Community": (CONDITIONS, "as Llama 3.1"),
    "Llama 4 Community": (CONDITIONS, "as Llama 3.1; not for multimodal use by those who live in the EU"),
    "Gemma": (CONDITIONS, "a list of uses is forbidden, which Google may change, and has to be passed on"),
    "Tongyi Qianwen": (CONDITIONS, "over 100 million users a month take a license; no training of other models"),
    "Qwen": (CONDITIONS, "over 100 million users a month take a license; models trained with it say so"),
    "DeepSeek Model": (CONDITIONS, "a list of uses is forbidden, and has to be passed on"),
}


@dataclass(frozen=True)
class Release:
    """Who published a model, in which month ("2023-09"), and the license of its weights, a key of `LICENSES`."""

    maker: str
    month: str
    license: str

    @property
    def year(self) -> float:
        """The middle of that month, as a number of years: 2023.708 for "2023-09"."""
        year, month = self.month.split("-")
        return int(year) + (int(month) - 0.5) / 12

    @property
    def openness(self) -> str:
        """The kind of its license: open source, conditions or research only."""
        return LICENSES[self.license][0]


# Models that came out together stand together.
_TOGETHER: dict[str, Release] = {
    "gpt2": Release("OpenAI", "2019-02", "MIT"),
    "gpt2-medium": Release("OpenAI", "2019-05", "MIT"),
    "gpt2-large": Release("OpenAI", "2019-08", "MIT"),
    "gpt2-xl": Release("OpenAI", "2019-11", "MIT"),
    "bloom-560m bloom-7b1 bloom": Release("BigScience", "2022-07", "BigScience RAIL 1.0"),
    "falcon-rw-1b": Release("TII", "2023-04", "Apache-2.0"),
    "falcon-7b falcon-40b": Release("TII", "2023-05", "Apache-2.0"),
    "falcon-180b": Release("TII", "2023-09", "Falcon 180B TII"),
    "falcon-11b": Release("TII", "2024-05", "Falcon 2 11B TII"),
    "llama-7b llama-13b llama-30b llama-65b": Release("Meta", "2023-02", "LLaMA"),
    "llama-2-7b llama-2-13b llama-2-70b": Release("Meta", "2023-07", "Llama 2 Community"),
    "llama-3-8b llama-3-70b": Release("Meta", "2024-04", "Llama 3 Community"),
    "llama-3.1-8b llama-3.1-70b llama-3.1-405b": Release("Meta", "2024-07", "Llama 3.1 Community"),
    "llama-3.2-1b llama-3.2-3b": Release("Meta", "2024-09", "Llama 3.2 Community"),
    "llama-4-scout llama-4-maverick": Release("Meta", "2025-04", "Llama 4 Community"),
    "codellama-7b codellama-34b": Release("Meta", "2023-08", "Llama 2 Community"),
    "tinyllama-1.1b": Release("Zhang et al.", "2024-01", "Apache-2.0"),
    "yi-6b yi-34b": Release("01.AI", "2023-11", "Apache-2.0"),
    "mistral-7b": Release("Mistral AI", "2023-09", "Apache-2.0"),
    "mistral-nemo": Release("Mistral AI", "2024-07", "Apache-2.0"),
    "mixtral-8x7b": Release("Mistral AI", "2023-12", "Apache-2.0"),
    "mixtral-8x22b": Release("Mistral AI", "2024-04", "Apache-2.0"),
    "gemma-2b gemma-7b": Release("Google", "2024-02", "Gemma"),
    "gemma-2-9b gemma-2-27b": Release("Google", "2024-06", "Gemma"),
    "gemma-2-2b": Release("Google", "2024-07", "Gemma"),
    "gemma-3-1b gemma-3-4b gemma-3-12b gemma-3-27b": Release("Google", "2025-03", "Gemma"),
    "qwen1.5-7b qwen1.5-72b": Release("Qwen", "2024-02", "Tongyi Qianwen"),
    "qwen1.5-moe-a2.7b": Release("Qwen", "2024-03", "Tongyi Qianwen"),
    "qwen2-7b qwen2-57b-a14b": Release("Qwen", "2024-06", "Apache-2.0"),
    "qwen2-72b": Release("Qwen", "2024-06", "Tongyi Qianwen"),
    "qwen2.5-7b qwen2.5-14b": Release("Qwen", "2024-09", "Apache-2.0"),
    "qwen2.5-72b": Release("Qwen", "2024-09", "Qwen"),
    "qwen3-4b qwen3-8b qwen3-14b qwen3-32b qwen3-30b-a3b qwen3-235b-a22b": Release("Qwen", "2025-04", "Apache-2.0"),
    "phi-2": Release("Microsoft", "2023-12", "MIT"),
    "phi-3-mini": Release("Microsoft", "2024-04", "MIT"),
    "phi-3-medium": Release("Microsoft", "2024-05", "MIT"),
    "phi-4": Release("Microsoft", "2024-12", "MIT"),
    "starcoder": Release("BigCode", "2023-05", "BigCode OpenRAIL-M"),
    "starcoder2-3b starcoder2-7b starcoder2-15b": Release("BigCode", "2024-02", "BigCode OpenRAIL-M"),
    "olmoe-1b-7b": Release("Ai2", "2024-09", "Apache-2.0"),
    "gpt-oss-20b gpt-oss-120b": Release("OpenAI", "2025-08", "Apache-2.0"),
    "deepseek-v2-lite deepseek-v2": Release("DeepSeek", "2024-05", "DeepSeek Model"),
    "deepseek-v3": Release("DeepSeek", "2024-12", "DeepSeek Model"),
    "deepseek-r1": Release("DeepSeek", "2025-01", "MIT"),
    "deepseek-v3.2": Release("DeepSeek", "2025-12", "MIT"),
    "glm-5": Release("Z.ai", "2026-02", "MIT"),
    "glm-5.2": Release("Z.ai", "2026-06", "MIT"),
    "grok-1": Release("xAI", "2024-03", "Apache-2.0"),
    "kimi-k2": Release("Moonshot AI", "2025-07", "Modified MIT"),
}
RELEASES: dict[str, Release] = {name: release for names, release in _TOGETHER.items() for name in names.split()}
