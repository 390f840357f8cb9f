"""The frozen encoder, with a tiny random BERT in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stream_mtl.config import Text
from stream_mtl.errors import ConfigError
from stream_mtl.text import Encoder, load_encoder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "shoe", "lamp", "for", "men"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers folder with random weights and a vocabulary of eleven words."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    path = tmp_path_factory.mktemp("encoder")
    (path / "vocab.txt").write_text("\n".join(WORDS))
    torch.manual_seed(0)
    small = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    BertModel(small).save_pretrained(path)
    BertTokenizerFast(str(path / "vocab.txt")).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return load_encoder(Text(model=str(folder)))


def test_a_text_has_the_same_vector_whatever_stands_beside_it(encoder: Encoder) -> None:
    """Bit-equal, so that roll-forward may encode in another company."""
    texts = ["red shoe for men", "blue lamp", "red shoe " * 9, "men"]
    alone = torch.cat([encoder.encode([text]) for text in texts])
    assert torch.equal(encoder.encode(texts), alone)
    many = texts * 11
    assert torch.equal(encoder.encode(many), alone.repeat(11, 1))


def test_vectors_have_unit_length_and_tell_texts_apart(encoder: Encoder) -> None:
    vectors_NE = encoder.encode(["red shoe", "blue lamp"])
    assert vectors_NE.shape == (2, encoder.dim)
    assert torch.allclose(vectors_NE.norm(dim=1), torch.ones(2), atol=1e-6)
    assert not torch.allclose(vectors_NE[0], vectors_NE[1])


def test_padding_does_not_take_part_in_the_mean(encoder: Encoder, folder: Path) -> None:
    """Equal to the plain forward without padding (transformers itself as the oracle)."""
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)("red shoe", return_tensors="pt")
    with torch.no_grad():
        hidden_1LE = AutoModel.from_pretrained(folder)(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).last_hidden_state
    expected_1E = torch.nn.functional.normalize(hidden_1LE.mean(1), dim=-1)
    assert torch.allclose(encoder.encode(["red shoe"]), expected_1E, atol=1e-5)


def test_without_an_encoder_there_are_no_vectors() -> None:
    encoder = load_encoder(Text(model="none"))
    assert (encoder.dim, encoder.encode(["a", "b"]).shape) == (0, (2, 0))


@pytest.mark.parametrize(
    "model, says",
    [
        ("pkg:no_such_package_here/model", "not installed"),
        ("/no/such/folder", "found none"),
    ],
)
def test_a_model_that_is_not_there_is_named_with_its_remedy(model: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_encoder(Text(model=model))


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="transformers model folder"):
        load_encoder(Text(model=str(tmp_path)))
