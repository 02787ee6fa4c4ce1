#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/train/optimizer.json: weights that torch's optimizers make of given gradients, learning rates of
transformers' schedules at every step, and the dynamic maps of 8-bit state from their description.

Needs torch and transformers. Made with torch 2.13.0 and transformers 5.24.0.
"""
import functools
import json
import pathlib

import numpy
import torch
import transformers

OUTPUT = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/train/optimizer.json"
ELEMENTS, STEPS = 24, 6
ADAMW = functools.partial(torch.optim.AdamW, foreach=False, fused=False)
SGD = functools.partial(torch.optim.SGD, foreach=False, fused=False)
# Our spec, torch's optimizer, learning rate, weight decay.
OPTIMIZERS = [
    ("adamw", functools.partial(ADAMW, betas=(0.9, 0.999), eps=1e-8), 1e-3, 0.0),
    ("adamw", functools.partial(ADAMW, betas=(0.9, 0.999), eps=1e-8), 2e-2, 0.1),
    ("adamw:beta1=0.7,beta2=0.95,eps=1e-4", functools.partial(ADAMW, betas=(0.7, 0.95), eps=1e-4), 1e-2, 0.01),
    ("adamw:beta1=0", functools.partial(ADAMW, betas=(0.0, 0.999), eps=1e-8), 1e-3, 0.0),
    ("sgd", SGD, 0.3, 0.0),
    ("sgd", SGD, 0.3, 0.05),
    ("sgd:momentum=0.9", functools.partial(SGD, momentum=0.9), 0.1, 0.0),
    ("sgd:momentum=0.9,nesterov", functools.partial(SGD, momentum=0.9, nesterov=True), 0.1, 0.02),
    ("lomo", SGD, 0.3, 0.05),
]
TOTAL = 40
# Our spec, transformers' name, its arguments besides the steps, steps of warm-up.
SCHEDULES = [
    ("constant", "constant", {}, 0),
    ("constant_with_warmup", "constant_with_warmup", {}, 7),
    ("linear", "linear", {}, 0),
    ("linear", "linear", {}, 10),
    ("cosine", "cosine", {}, 3),
    ("cosine:num-cycles=1.5", "cosine", {"num_cycles": 1.5}, 4),
    ("cosine:min-lr-ratio=0.1", "cosine_with_min_lr", {"min_lr_rate": 0.1}, 4),
    ("cosine_with_restarts:num-cycles=3", "cosine_with_restarts", {"num_cycles": 3}, 4),
    ("polynomial:power=2,min-lr-ratio=0.05", "polynomial", {"power": 2.0, "lr_end": 0.05 * 0.002}, 5),
    ("inverse_sqrt", "inverse_sqrt", {}, 6),
    ("inverse_sqrt:timescale=9", "inverse_sqrt", {"timescale": 9}, 6),
    ("warmup_stable_decay:decay-ratio=0.25,min-lr-ratio=0.2", "warmup_stable_decay",
     {"num_decay_steps": 10, "min_lr_ratio": 0.2}, 5),
    ("warmup_stable_decay:decay-ratio=0.5,decay-type=1-sqrt", "warmup_stable_decay",
     {"num_decay_steps": 20, "decay_type": "1-sqrt"}, 0),
    ("warmup_stable_decay:decay-ratio=0.5,decay-type=linear", "warmup_stable_decay",
     {"num_decay_steps": 20, "decay_type": "linear"}, 8),
]


def floats(values) -> list[float]:
    """Nine digits give every float back."""
    return [float(f"{x:.9g}") for x in numpy.asarray(values, numpy.float32).ravel()]


def optimizer_cases(weights: torch.Tensor, gradients: torch.Tensor):
    for spec, make, rate, decay in OPTIMIZERS:
        parameter = torch.nn.Parameter(weights.clone())
        optimizer = make([parameter], lr=rate, weight_decay=decay)
        after = []
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
            after.append(floats(parameter.detach()))
        yield {"spec": spec, "learning_rate": rate, "weight_decay": decay, "after": after}


def schedule_cases():
    for spec, name, arguments, warmup in SCHEDULES:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.002)
        schedule = transformers.get_scheduler(name, optimizer, warmup, TOTAL, scheduler_specific_kwargs=arguments)
        rates = []
        for _ in range(TOTAL):
            rates.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        yield {"spec": spec, "warmup": warmup, "rates": rates}


def dynamic_map(signed: bool) -> list[float]:
    values = [0.0, 1.0]
    for i in range(7):
        bounds = numpy.linspace(0.1, 1, 2 ** (i if signed else i + 1) + 1)
        middles = (bounds[:-1] + bounds[1:]) / 2 * 10.0 ** (i - 6)
        values += [*middles, *(-middles if signed else [])]
    return floats(sorted(values))


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(11)
    weights = torch.randn(ELEMENTS, generator=generator)
    gradients = torch.randn(STEPS, ELEMENTS, generator=generator)
    gradients *= 10.0 ** torch.arange(ELEMENTS).remainder(6).sub(4)  # 1e-4 ... 10
    gradients[:, 5] = 0
    gradients[2:, 6] = 0
    gradients[:4, 7] = 0
    golden = {
        "weights": floats(weights),
        "gradients": [floats(g) for g in gradients],
        "optimizers": list(optimizer_cases(weights, gradients)),
        "total_steps": TOTAL,
        "learning_rate": 0.002,
        "schedules": list(schedule_cases()),
        "signed_map": dynamic_map(True),
        "unsigned_map": dynamic_map(False),
    }
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(golden, separators=(",", ":")).replace("],", "],\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
