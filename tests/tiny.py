"""Models of the real architectures, too small to be of any use but quick: for tests of everything around them."""

from pathlib import Path

import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
)

WORDS = "what is rlhf ? how many people live in berlin reward model passage query the a of and to read".split()
_SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def tokenizer(folder: Path, kind: str) -> int:
    """Save a word-level tokenizer with the special tokens of the architecture; return its size."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    bert = kind == "bert"
    first, last, pad, unknown = ("[CLS]", "[SEP]", "[PAD]", "[UNK]") if bert else ("<s>", "</s>", "<pad>", "<unk>")
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([first, pad, last, unknown, *WORDS]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    pair = f"{first} $A {last} $B:1 {last}:1" if bert else f"{first} $A {last} {last} $B {last}"
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=pair, special_tokens=[(t, vocabulary[t]) for t in (first, last)]
    )
    names = ["input_ids", "token_type_ids", "attention_mask"] if bert else ["input_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token=first, sep_token=last, pad_token=pad, unk_token=unknown,
        model_input_names=names, model_max_length=512,
    ).save_pretrained(folder)  # fmt: skip
    return len(vocabulary)


def bi_encoder(folder: Path) -> Path:
    """Save a BERT with mean pooling and normalisation in sentence-transformers' layout."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    raw = folder.with_name(f"{folder.name}-raw")
    size = tokenizer(raw, "bert")
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=size, max_position_embeddings=512, pad_token_id=1, **_SIZE)).save_pretrained(raw)
    transformer = Transformer(str(raw))
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu").save_pretrained(str(folder))
    return folder


def cross_encoder(folder: Path, kind: str = "bert") -> Path:
    """Save a BERT or XLM-RoBERTa with one output, as the published cross-encoders are laid out."""
    size = tokenizer(folder, kind)
    torch.manual_seed(1)
    config: PreTrainedConfig = (
        BertConfig(vocab_size=size, max_position_embeddings=512, pad_token_id=1, num_labels=1, **_SIZE)
        if kind == "bert"
        else XLMRobertaConfig(
            vocab_size=size, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1, num_labels=1, **_SIZE
        )
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


def masked_language_model(folder: Path) -> Path:
    """Save a BERT with a head for masked words, as the published sparse encoders are laid out."""
    size = tokenizer(folder, "bert")
    torch.manual_seed(2)
    BertForMaskedLM(BertConfig(vocab_size=size, max_position_embeddings=512, pad_token_id=1, **_SIZE)).save_pretrained(
        folder
    )
    return folder
