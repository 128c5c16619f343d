"""A larger vocabulary: what was there stays as it was."""

import numpy as np
import pytest
from training import VOCABULARY, tiny_model

from tinymoe.backend import current
from tinymoe.models import from_pretrained, zoo
from tinymoe.models.resize import resize_token_embeddings

IDS = [[1, 2, 3, 4]]


@pytest.mark.parametrize("tied", [False, True])
def test_old_scores_stay_and_new_tokens_are_learned(backend, tied):
    model = tiny_model(tie_word_embeddings=tied)
    before = model(IDS).numpy()
    assert resize_token_embeddings(model, VOCABULARY + 3) is model
    after = model(IDS).numpy()
    assert after.shape == (1, 4, VOCABULARY + 3) and model.config.vocab_size == VOCABULARY + 3
    np.testing.assert_allclose(after[..., :VOCABULARY], before, atol=1e-6)
    model.loss([[VOCABULARY, 1]], [[1, VOCABULARY + 2]]).backward()
    gradient = current().to_numpy(model.model.embed_tokens.weight.grad)
    assert gradient.shape == (VOCABULARY + 3, 16) and np.abs(gradient[VOCABULARY]).max() > 0


def test_new_rows_are_near_the_mean_and_take_little_probability():
    model = tiny_model()
    table = model.model.embed_tokens.weight
    old = table.numpy().copy()
    resize_token_embeddings(model, VOCABULARY + 4, seed=3)
    new = table.numpy()[VOCABULARY:]
    np.testing.assert_array_equal(table.numpy()[:VOCABULARY], old)
    assert 0 < np.abs(new - old.mean(axis=0)).max() < 0.1 * old.std()
    assert len(np.unique(new, axis=0)) == 4
    logits = model(IDS).numpy()
    assert (logits[..., VOCABULARY:] < logits[..., :VOCABULARY].max(axis=-1, keepdims=True)).all()


@pytest.mark.parametrize("name", [name for name in zoo.list() if name.endswith("-nano")])
def test_every_family_is_saved_and_loaded_with_more_tokens(name, tmp_path):
    model = zoo.build(name, vocab_size=VOCABULARY)
    before = model(IDS).numpy()
    resize_token_embeddings(model, VOCABULARY + 2)
    np.testing.assert_allclose(model(IDS).numpy()[..., :VOCABULARY], before, atol=1e-5)
    model.save_pretrained(tmp_path)
    np.testing.assert_allclose(from_pretrained(tmp_path)(IDS).numpy(), model(IDS).numpy(), atol=1e-6)


def test_a_smaller_vocabulary_is_refused():
    model = tiny_model()
    assert resize_token_embeddings(model, VOCABULARY) is model
    with pytest.raises(ValueError, match=f"vocab_size: got 5, expected at least the model's {VOCABULARY}"):
        resize_token_embeddings(model, 5)
