"""The configurations that each family is compared with Transformers in.

One module a family, named after its `model_type`, with

    MODEL, CONFIG   the class of Transformers and its config
    VARIANTS        name -> what is changed in `SMALL` (below) and BASE, at least four: heads, head_dim, ties, biases,
                    windows shorter than the inputs, kinds of scaling
    BASE            optional: what all variants of the family share
    ATTENTION       optional: the implementation of Transformers to compare with, where it is not "eager"
    SMALL_NAMES     optional: the family's own names of the fields in SMALL, {"hidden_size": "n_embd", …}; None drops it
"""

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # large enough for attention that is far from uniform
}
