"""Encoding: right vectors, clear errors, and what it takes for texts."""

import re
import warnings

import datasets
import numpy as np
import pandas as pd
import pytest
import torch

import rrhelpers as rr
from rrhelpers import batching, encoding


def test_quickstart_matrix_to_four_digits(model):
    figures = rr.book.published()["quickstart_bi"]
    vectors = rr.encode(model, figures["sentences"])
    assert (vectors @ vectors.T).round(4) == pytest.approx(np.array(figures["similarities"]), abs=1e-4)


def test_same_as_sentence_transformers(model, texts):
    theirs = model.encode(texts[:40], normalize_embeddings=True)
    assert rr.encode(model, texts[:40]) == pytest.approx(theirs, abs=1e-6)


def test_a_string_gives_one_vector_and_a_list_gives_rows(model):
    one, rows = rr.encode(model, "a query"), rr.encode(model, ["a query", "a passage"])
    assert one.shape == (384,)
    assert rows.shape == (2, 384)
    assert one.dtype == rows.dtype == np.float32
    assert rows[0] == pytest.approx(one, abs=1e-6)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-6)


def test_batch_and_order_don_t_matter(model, texts):
    some = texts[:30]
    expected = rr.encode(model, some)
    assert rr.encode(model, some, batch_size=1) == pytest.approx(expected, abs=1e-6)
    assert rr.encode(model, some[::-1], batch_size=7)[::-1] == pytest.approx(expected, abs=1e-6)


def test_every_container_gives_the_same(model):
    some = ["one text", "another text", "🦜 emoji, 漢字 and all"]
    expected = rr.encode(model, some)
    series = pd.Series(some, index=[7, 3, 9])
    column = datasets.Dataset.from_dict({"text": some})["text"]
    for texts in (tuple(some), series, column, (text for text in some), np.array(some)):
        assert (rr.encode(model, texts) == expected).all(), type(texts)


def test_nothing_gives_no_rows(model):
    assert rr.encode(model, []).shape == (0, 384)
    assert rr.encode(model, iter(())).shape == (0, 384)


@pytest.mark.parametrize(
    ("texts", "error", "match"),
    [
        (None, TypeError, "NoneType"),
        (3, TypeError, "int"),
        (b"bytes", TypeError, "bytes"),
        ({"a": 1}, TypeError, "dict"),
        (["fine", None], TypeError, "text 1 is missing"),
        (pd.Series(["fine", np.nan]), TypeError, "text 1 is missing"),
        (["fine", 3], TypeError, "text 1 is int"),
        ([b"bytes"], TypeError, "decode it first"),
        (["fine", "bro\ud800ken"], ValueError, r"U\+D800, at character 3"),
        ("\udfff", ValueError, "lone surrogate"),
    ],
)
def test_bad_input_is_named(model, texts, error, match):
    with pytest.raises(error, match=match):
        rr.encode(model, texts)


def test_blank_texts_are_encoded_with_a_warning(model):
    with pytest.warns(UserWarning, match="2 of 3 texts are blank"):
        vectors = rr.encode(model, ["", " \n\t", "text"])
    assert np.isfinite(vectors).all()
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)


def test_truncation_is_counted(model):
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than the 256 tokens"):
        vectors = rr.encode(model, ["word " * 5000, "short"])
    assert vectors[0] == pytest.approx(rr.encode(model, "word " * 254), abs=1e-6)


def test_exactly_the_limit_is_not_truncated(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rr.encode(model, "word " * 254)  # and the two special tokens


def test_a_megabyte_of_text(model):
    with pytest.warns(UserWarning, match="longer"):
        assert rr.encode(model, "retrieval " * 100_000).shape == (384,)


def test_prefixes_of_the_model_are_used(model, monkeypatch):
    monkeypatch.setattr(model, "prompts", {"query": "query: ", "document": "passage: "})
    assert (rr.encode(model, "cats", kind="query") == rr.encode(model, "query: cats")).all()
    assert (rr.encode(model, "cats", kind="passage") == rr.encode(model, "passage: cats")).all()
    assert (rr.encode(model, "cats") != rr.encode(model, "cats", kind="query")).any()
    with pytest.raises(ValueError, match="'document'"):
        rr.encode(model, "cats", kind="document")


def test_out_of_memory_halves_the_batch_and_says_so_once(model, texts, monkeypatch):
    sizes = []
    real = type(model).forward

    def small_device(self, features, **kwargs):
        sizes.append(len(features["input_ids"]))
        if sizes[-1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, features, **kwargs)

    expected = rr.encode(model, texts[:64])
    monkeypatch.setattr(encoding, "BLOCK", 32)  # and not once a block
    monkeypatch.setattr(type(model), "forward", small_device)
    with pytest.warns(UserWarning, match="out of memory") as caught:
        vectors = rr.encode(model, texts[:64], batch_size=16)
    assert vectors == pytest.approx(expected, abs=1e-6)
    assert len([w for w in caught if "out of memory" in str(w.message)]) == 1
    assert sizes[0] == 16
    assert set(sizes[1:]) == {8}


def test_out_of_memory_with_one_text_is_an_error(monkeypatch):
    assert batching._is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not batching._is_out_of_memory(RuntimeError("shapes cannot be multiplied"))


def test_writes_to_a_file_of_your_own(model, tmp_path):
    some = ["one", "two", "three"]
    vectors = rr.encode(model, iter(some), out=tmp_path / "vectors.npy")
    assert isinstance(vectors, np.memmap)
    assert (vectors == rr.encode(model, some)).all()
    assert (np.load(tmp_path / "vectors.npy") == vectors).all()
    assert rr.encode(model, [], out=tmp_path / "none.npy").shape == (0, 384)


def test_a_failed_run_leaves_no_file(model, tmp_path):
    with pytest.raises(TypeError):
        rr.encode(model, ["fine", None], out=tmp_path / "vectors.npy")
    assert list(tmp_path.glob("*.npy*")) == []


def test_large_results_move_to_a_memory_map(model, texts, monkeypatch):
    monkeypatch.setattr(encoding, "_MEMORY_LIMIT", 20 * 384 * 4)
    monkeypatch.setattr(encoding, "BLOCK", 16)
    vectors = rr.encode(model, texts[:50], cache=False)
    assert isinstance(vectors, np.memmap)
    assert vectors == pytest.approx(rr.encode(model, texts[:50], cache=False), abs=1e-6)


def test_by_default_a_batch_has_so_many_tokens(model, texts, monkeypatch):
    shapes = []
    real = type(model).forward

    def watched(self, features, **kwargs):
        shapes.append(tuple(features["input_ids"].shape))
        return real(self, features, **kwargs)

    expected = rr.encode(model, texts[:64], batch_size=7)
    monkeypatch.setattr(type(model), "forward", watched)
    monkeypatch.setitem(batching._TOKENS, "cpu", (100, 8))
    assert rr.encode(model, texts[:64]) == pytest.approx(expected, abs=1e-6)
    assert all(rows * length <= 100 < 2 * rows * length or rows == 8 for rows, length in shapes[:-1])
    assert {rows for rows, _ in shapes[:-1]} == {1, 2, 4, 8}
    assert sum(rows for rows, _ in shapes) == 64


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_is_the_tokenizer_s(small, texts, side, monkeypatch):
    monkeypatch.setattr(small.tokenizer, "padding_side", side)
    rows, _ = batching.tokenize(small.tokenizer, [*texts[:9], ("a query", "a passage")], 64, "longest_first")
    theirs = small.tokenizer.pad(rows, return_tensors="pt", padding_side=side)
    ours = batching._padded(small.tokenizer, rows, theirs["input_ids"].shape[1])
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert torch.equal(ours[name], values), name


@pytest.mark.parametrize(("limit", "widest"), [(512, 20), (18, 18)])
def test_batches_have_few_shapes_and_none_is_wider_than_the_model_takes(small, limit, widest, monkeypatch):
    shapes, padded = [], batching._padded
    monkeypatch.setattr(batching, "_padded", lambda *given: shapes.append(given[2]) or padded(*given))
    texts = ["read " * length for length in range(1, 16) for _ in range(64)]  # of 3 to 17 tokens
    monkeypatch.setattr(small.tokenizer, "model_max_length", limit)
    rr.encode(small, texts, cache=False, progress=False)
    assert set(shapes) == {4, 8, 12, 16, widest}


def test_a_text_longer_than_a_batch_has_tokens_goes_alone(model, monkeypatch):
    monkeypatch.setitem(batching._TOKENS, "cpu", (3, 64))
    assert rr.encode(model, ["one two three four", "five"]).shape == (2, 384)


def bar(capsys) -> str:
    """Return the last state of the progress bar."""
    return re.split(r"[\r\n]+", capsys.readouterr().err.strip())[-1]


def test_the_bar_of_a_generator_knows_the_total_that_it_is_told(small, texts, capsys):
    expected = rr.encode(small, texts, cache=False, progress=True)
    assert "100%" in bar(capsys)
    for total, shown in ((300, " 300/300 ["), (1000, " 300/1000 ["), (100, " 300text ["), (None, " 300text [")):
        vectors = rr.encode(small, iter(texts), total=total, cache=False)
        assert (vectors == expected).all()
        assert shown in bar(capsys)
    rr.encode(small, texts, total=7, cache=False)
    assert " 300/300 [" in bar(capsys), "a list's own length counts"


@pytest.mark.usefixtures("small_blocks")
def test_texts_from_the_cache_do_not_count_towards_the_rate(small, texts, tmp_path, capsys, monkeypatch):
    rr.encode(small, iter(texts[:160]), cache=tmp_path)
    assert "from the cache" not in bar(capsys)
    rr.encode(small, iter(texts[:160]), cache=tmp_path)
    assert "?text/s, 160 from the cache]" in bar(capsys)
    bars, real = [], encoding._bar
    monkeypatch.setattr(encoding, "_bar", lambda *options: bars.append(real(*options)) or bars[-1])
    rr.encode(small, iter(texts), cache=tmp_path, total=300)
    assert (bars[0].n, bars[0].initial) == (300, 160)
    assert re.search(r"300/300 .*\dtext/s, 160 from the cache", bar(capsys))


@pytest.mark.parametrize(("total", "error"), [(-1, ValueError), (1.5, TypeError), ("9", TypeError), (True, TypeError)])
def test_total_must_make_sense(model, total, error):
    with pytest.raises(error, match="total"):
        rr.encode(model, iter(["text"]), total=total)


def test_batch_size_must_make_sense(model):
    with pytest.raises(ValueError, match="batch_size"):
        rr.encode(model, "text", batch_size=0)


def test_bf16_stays_close(model, texts):
    half = rr.load_bi_encoder(device="cpu", dtype=torch.bfloat16)
    cosines = (rr.encode(half, texts[:50]) * rr.encode(model, texts[:50])).sum(axis=1)
    assert cosines.min() > 0.999
