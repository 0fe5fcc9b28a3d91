"""Train an adapter on some hundreds of texts in seconds: what no adapter changes is computed once."""

from collections.abc import Sequence

import torch
from torch import nn
from tqdm.auto import tqdm

from .adapters import Adapter, bert_layers, own_norm, use_adapter


class Precomputed:
    """Texts of which everything below the first adapter is computed already, once.

    Nothing below the first adapter learns, so training needn't compute it at every step. With adapters
    in the last two of six layers a step costs about a quarter.

    Parameters
    ----------
    model : sentence_transformers.SentenceTransformer
        Its weights are frozen (``requires_grad_(False)``), and an adapter in use is taken out.
    texts : sequence of str
        All are held at once, with a matrix of (tokens, width) each: for hundreds of texts, not millions.
    first : int
        The lowest layer, from 0, that an adapter may have a bottleneck in.

    Raises
    ------
    ValueError
        If the model isn't built like BERT or has no such layer.
    """

    def __init__(self, model, texts: Sequence[str], *, first: int):
        use_adapter(model, None)
        self.model, self.first = model.eval().requires_grad_(False), first
        self.layers = bert_layers(model)
        if not 0 <= first < len(self.layers):
            raise ValueError(f"there is no layer {first}: the model has {len(self.layers)}, from 0")
        features = model.tokenizer(
            list(texts), padding=True, truncation=True, max_length=model.max_seq_length, return_tensors="pt"
        ).to(model.device)
        self.mask = features["attention_mask"]
        self._calls: list[tuple[tuple, dict]] = []  # what each layer above `first` is called with, besides its input
        hooks = [own_norm(self.layers[first]).register_forward_pre_hook(self._keep_total)]
        hooks += [
            layer.register_forward_pre_hook(self._keep_call, with_kwargs=True) for layer in self.layers[first + 1 :]
        ]
        with torch.no_grad():
            model(dict(features))
        for hook in hooks:
            hook.remove()

    def _keep_total(self, norm, args):
        self._total = args[0]

    def _keep_call(self, layer, args, kwargs):
        self._calls.append((args[1:], {name: value for name, value in kwargs.items() if name != "hidden_states"}))

    def __call__(self, adapter: Adapter | None, rows: Sequence[int] | None = None) -> torch.Tensor:
        """Return the vectors of the texts in `rows` (all, if None) with this adapter, ready for a gradient.

        Returns
        -------
        tensor of shape (n, d)
            Rows have Euclidean length 1.

        Raises
        ------
        ValueError
            If the adapter has a bottleneck below `first`.
        """
        if adapter and min(map(int, adapter)) < self.first:
            raise ValueError(f"the adapter starts at layer {min(map(int, adapter))}, computed is up to {self.first}")
        count = len(self._total)
        rows = torch.arange(count) if rows is None else torch.as_tensor(rows)

        def pick(value):
            return value[rows] if isinstance(value, torch.Tensor) and len(value) == count else value

        use_adapter(self.model, adapter)
        hidden = self.layers[self.first].output.LayerNorm(self._total[rows])
        for layer, (args, kwargs) in zip(self.layers[self.first + 1 :], self._calls, strict=True):
            hidden = layer(hidden, *map(pick, args), **{name: pick(value) for name, value in kwargs.items()})
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden  # transformers 4 returns a tuple
        use_adapter(self.model, None)
        features = {"token_embeddings": hidden, "attention_mask": self.mask[rows]}
        for module in list(self.model)[1:]:
            features = module(features)
        return nn.functional.normalize(features["sentence_embedding"], dim=1)


def train_adapter(
    texts: Precomputed,
    adapter: Adapter,
    loss: nn.Module,
    *,
    rows: Sequence[int] | None = None,
    steps: int = 20,
    learning_rate: float = 3e-3,
    progress: bool = True,
) -> list[float]:
    """Train an adapter, in place, and nothing else of the model.

    Every step takes all texts at once, for small collections.

    Parameters
    ----------
    texts : Precomputed
    adapter : Adapter
    loss : torch.nn.Module
        Called with the vectors of the texts in `rows`, a tensor (n, d); returns a scalar. Parameters of
        its own, such as a classifier's, are trained along.
    rows : sequence of int, optional
        The texts to train on; all if not given.
    steps : int
    learning_rate : float
        Of AdamW.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of float
        The loss at each step, before it.
    """
    adapter.to(texts.model.device)
    loss.to(texts.model.device)
    optimizer = torch.optim.AdamW([*adapter.parameters(), *loss.parameters()], lr=learning_rate)
    losses = []
    for _ in tqdm(range(steps), desc="train", unit="step", disable=not progress):
        value = loss(texts(adapter, rows))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses
