"""The same iterations in plain PyTorch: `torch_peers.py PEER EXPORT THREADS SECONDS`.

Runs in an environment of its own that has torch and numpy; imports nothing of this project. Each
peer is what a careful user would write: the lower steps as a Python loop, kept in the graph
(create_graph=True) and differentiated by one backward pass. Batch norm is written by hand: under
torch.func.vmap, BatchNorm2d is wrong at second order. `_func` peers use torch.func (vmap over
tasks). Prints one JSON object, with the losses of the first iterations, which must equal ours.

Runs on a GPU where torch sees one, its float32 products in TF32 as those of JAX are by default.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Tree = dict[str, Tensor]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PADDINGS = {28: (0, 1, 0, 1), 14: (0, 1, 0, 1), 7: (1, 1, 1, 1), 4: (0, 1, 0, 1)}  # SAME, stride 2


def features(weights: Tree, images: Tensor) -> Tensor:
    """conv4 with stride 2: convolution, batch norm on these images (offset only), ReLU."""
    hidden = images
    for block in range(4):
        hidden = functional.pad(hidden, PADDINGS[hidden.shape[-1]])
        hidden = functional.conv2d(hidden, weights[f"block_{block}/conv_weights"], stride=2)
        mean = hidden.mean((0, 2, 3), keepdim=True)
        variance = (hidden - mean).square().mean((0, 2, 3), keepdim=True)
        hidden = (hidden - mean) * torch.rsqrt(variance + 1e-3)
        hidden = torch.relu(hidden + weights[f"block_{block}/batch_norm_offset"][:, None, None])
    return hidden.permute(0, 2, 3, 1).flatten(1)


class Work(NamedTuple):
    """What was exported: numbers, x, y, and the tasks of the first iterations."""

    options: dict[str, float]
    x: Tree
    y: Tree
    tasks: list[Tree]


def read_work(path: str) -> Work:
    found = np.load(path)

    def tree(prefix: str) -> Tree:
        names = [name for name in found.files if name.startswith(prefix)]
        return {
            name.removeprefix(prefix): torch.from_numpy(found[name]).to(DEVICE) for name in names
        }

    options = {name: float(value) for name, value in tree("option/").items()}
    count = len({name.partition("/")[0] for name in found.files if name.startswith("task")})
    x = {name.removeprefix("/"): leaf for name, leaf in tree("x").items()}
    return Work(options, x, tree("y/"), [tree(f"task{i}/") for i in range(count)])


def layout(weights: Tree) -> Tree:
    """Convolutions from (3, 3, in, out) to (out, in, 3, 3)."""
    return {
        name: leaf.permute(3, 2, 0, 1).contiguous() if leaf.ndim == 4 else leaf
        for name, leaf in weights.items()
    }


def images_of(task: Tree, part: str, i: int) -> tuple[Tensor, Tensor]:
    images = task[f"{part}/images"][i].permute(0, 3, 1, 2).contiguous()
    return images, task[f"{part}/labels"][i].long()


def descend(y: Tree, loss: Tensor, step: float) -> Tree:
    grads = torch.autograd.grad(loss, list(y.values()), create_graph=True)
    return {name: leaf - step * g for (name, leaf), g in zip(y.items(), grads, strict=True)}


def linear(y: Tree, inputs: Tensor) -> Tensor:
    return inputs @ y["weights"] + y["bias"]


def loss_of(y: Tree, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of a network with its head, both in y."""
    network = {n.removeprefix("network/"): leaf for n, leaf in y.items()}
    head = {n.removeprefix("head/"): leaf for n, leaf in y.items()}
    return functional.cross_entropy(linear(head, features(network, images)), labels)


def few_shot_maml(work: Work) -> Callable[[int], float]:
    x = {name: leaf.clone().requires_grad_() for name, leaf in layout(work.x).items()}
    optimizer = torch.optim.Adam(list(x.values()), lr=work.options["upper_step_size"])
    steps, size = int(work.options["num_lower_steps"]), work.options["lower_step_size"]

    def iteration(n: int) -> float:
        task = work.tasks[n % len(work.tasks)]
        tasks = len(task["query/labels"])
        optimizer.zero_grad()
        total = 0.0
        for i in range(tasks):
            y = dict(x)
            for _ in range(steps):
                y = descend(y, loss_of(y, *images_of(task, "support", i)), size)
            loss = loss_of(y, *images_of(task, "query", i)) / tasks
            loss.backward()
            total += float(loss)
        optimizer.step()
        return total

    return iteration


def few_shot_maml_func(work: Work) -> Callable[[int], float]:
    """The same by torch.func: one program for all tasks."""
    x = {name: leaf.clone() for name, leaf in layout(work.x).items()}
    optimizer = torch.optim.Adam(list(x.values()), lr=work.options["upper_step_size"])
    steps, size = int(work.options["num_lower_steps"]), work.options["lower_step_size"]

    def of_task(y: Tree, support: Any, query: Any) -> Tensor:
        for _ in range(steps):
            grads = torch.func.grad(loss_of)(y, *support)
            y = {name: leaf - size * grads[name] for name, leaf in y.items()}
        return loss_of(y, *query)

    def of_batch(x: Tree, support: Any, query: Any) -> Tensor:
        return torch.func.vmap(of_task, (None, 0, 0))(x, support, query).mean()

    def iteration(n: int) -> float:
        task = work.tasks[n % len(work.tasks)]
        parts = [
            (task[f"{p}/images"].permute(0, 1, 4, 2, 3).contiguous(), task[f"{p}/labels"].long())
            for p in ("support", "query")
        ]
        grads, loss = torch.func.grad_and_value(of_batch)(x, *parts)
        for name, leaf in x.items():
            leaf.grad = grads[name]
        optimizer.step()
        return float(loss)

    return iteration


def few_shot_head(work: Work, aggregate: bool) -> Callable[[int], float]:
    """RHG, or with `aggregate` BDA with the harmonic law: the head adapts on fixed features."""
    x = {name: leaf.clone().requires_grad_() for name, leaf in layout(work.x).items()}
    optimizer = torch.optim.Adam(list(x.values()), lr=work.options["upper_step_size"])
    steps, size = int(work.options["num_lower_steps"]), work.options["lower_step_size"]
    alpha = work.options["alpha"]

    def iteration(n: int) -> float:
        task = work.tasks[n % len(work.tasks)]
        tasks = len(task["query/labels"])
        optimizer.zero_grad()
        total = 0.0
        for i in range(tasks):
            parts = [images_of(task, part, i) for part in ("support", "query")]
            (support, support_labels), (query, query_labels) = [
                (features(x, images), labels) for images, labels in parts
            ]
            y = {name: leaf.clone().requires_grad_() for name, leaf in work.y.items()}
            for k in range(1, steps + 1):
                loss = functional.cross_entropy(linear(y, support), support_labels)
                if aggregate:
                    upper = functional.cross_entropy(linear(y, query), query_labels)
                    loss = alpha / k * upper + (1 - alpha / k) * loss
                y = descend(y, loss, size)
            loss = functional.cross_entropy(linear(y, query), query_labels) / tasks
            loss.backward()
            total += float(loss)
        optimizer.step()
        return total

    return iteration


def few_shot_rhg(work: Work) -> Callable[[int], float]:
    return few_shot_head(work, aggregate=False)


def few_shot_bda(work: Work) -> Callable[[int], float]:
    return few_shot_head(work, aggregate=True)


def cleaning(work: Work, aggregate: bool) -> Callable[[int], float]:
    """A weight sigmoid(x_i) per training image; K steps on all of them, unrolled."""
    x = work.x[""].clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=work.options["upper_step_size"])
    steps, size = int(work.options["num_lower_steps"]), work.options["lower_step_size"]
    alpha, task = work.options["alpha"], work.tasks[0]
    data = {
        p: (task[f"{p}/images"][0].flatten(1), task[f"{p}/labels"][0].long())
        for p in ("train", "validation")
    }
    layers = sorted({name.rpartition("/")[0] for name in work.y if "layer" in name})

    def losses(y: Tree, part: str) -> Tensor:
        hidden, labels = data[part]
        for layer in layers:
            hidden = torch.relu(hidden @ y[f"{layer}/w"] + y[f"{layer}/b"])
        logits = hidden @ y["head/weights"] + y["head/bias"]
        return functional.cross_entropy(logits, labels, reduction="none")

    def iteration(n: int) -> float:
        optimizer.zero_grad()
        y = {name: leaf.clone().requires_grad_() for name, leaf in work.y.items()}
        for k in range(1, steps + 1):
            loss = (torch.sigmoid(x) * losses(y, "train")).mean()
            if aggregate:
                loss = alpha / k * losses(y, "validation").mean() + (1 - alpha / k) * loss
            y = descend(y, loss, size)
        loss = losses(y, "validation").mean()
        loss.backward()
        optimizer.step()
        return float(loss)

    return iteration


def cleaning_rhg(work: Work) -> Callable[[int], float]:
    return cleaning(work, aggregate=False)


def cleaning_bda(work: Work) -> Callable[[int], float]:
    return cleaning(work, aggregate=True)


def main() -> None:
    peer, export, threads, seconds = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.set_float32_matmul_precision("high")
    iteration = globals()[peer](read_work(export))
    losses = [iteration(n) for n in range(4)]
    walls, cpus, began, n = [], [], time.perf_counter(), 4
    while len(walls) < 5 or time.perf_counter() - began < float(seconds):
        wall, cpu = time.perf_counter(), time.process_time()
        iteration(n)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        n += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "losses": losses,
                "wall": walls,
                "cpu": cpus,
                "peak_mib": peak,
                "torch": torch.__version__,
                "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
            }
        )
    )


if __name__ == "__main__":
    main()
