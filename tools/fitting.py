"""The loop that trains: AdamW, a tenth of the steps up, then down to nothing."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from tqdm.auto import tqdm


def fit(parameters: list[dict], batches: Iterator, loss_of: Callable, steps: int, name: str) -> dict:
    """Train `parameters` (groups, as the optimizer takes them) on `steps` batches; return what it took."""
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / (0.1 * steps), max(0.0, (steps - s) / (0.9 * steps)))
    )
    every = [p for group in parameters for p in group["params"]]
    losses, started = [], time.time()
    for _ in tqdm(range(steps), desc=name, mininterval=10):
        loss = loss_of(next(batches))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(every, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
    # The mean of each tenth: what came of it, and whether it had come to rest.
    tenths = [round(float(np.mean(some)), 4) for some in np.array_split(losses, 10)]
    return {"run": name, "steps": steps, "loss": tenths, "seconds": round(time.time() - started)}
