"""Train a keyword network on a bank of disturbed recordings, and score it on recordings as they are.

If the bank has embeddings of a large network, the small one also learns what a classifier of them answers (Hinton et
al. 2015) and to foretell the embedding itself (Romero et al., "FitNets", 2015): three people teach ten digits, but not
what all people have in common.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.core.errors import DataError, InputError
from edge_lab.core.files import locked, writing_file
from edge_lab.signals.audio import Audio, LogMel, fit, log_mel

from .bank import Bank
from .masks import masked
from .teacher import Teacher, fit_teacher

if TYPE_CHECKING:
    from torch import Tensor, nn
    from tqdm import tqdm

    from edge_lab.data import SoundSet


@dataclass(frozen=True)
class SoundFitConfig:
    """How to train: AdamW, one cycle of the learning rate, label smoothing, and masks in time and frequency.

    Attributes:
        epochs: an epoch is `windows` windows.
        windows: drawn from the bank for each epoch, by `shares`.
        shares: of recorded people, voices made from people ("talkers/..."), synthetic voices ("voices/...") and
            background; a kind that is not there leaves its share to the others.
        batch_size: windows a step.
        lr: highest learning rate.
        weight_decay: of AdamW.
        label_smoothing: share of the target spread over all classes.
        mixup: of two windows, and of what is to be learnt from them (Zhang et al. 2018): both parameters of the beta
            distribution from which each batch draws the share of the first; 0 for none.
        level_db: lowest and highest change of loudness, of the whole window; what falls below the floor of the features
            is lost, as in a soft recording.
        equaliser_db: largest gain of each of five bands, for half of the windows.
        mask: widest band (mels) and pause (frames) that are blanked out, as in SpecAugment (Park et al. 2019).
        stretch: largest of the mel axis (a longer or shorter vocal tract, as in Jaitly & Hinton 2013), as a logarithm.
        bend: largest stretch, as a logarithm, at each of four places of the mel axis and of time: vowels differ from
            one person to the next, and so does the time that each sound of a word gets.
        distill: weight of the teacher's answers in the loss; it needs a bank with embeddings, as does `hint`.
        temperature: of these answers.
        hint: weight of the error in foretelling the embedding (mean square, after normalisation).
        seed: of drawing, masks, and the network's first weights.
    """

    epochs: int = 14
    windows: int = 40_000
    shares: tuple[float, float, float, float] = (0.46, 0.24, 0.22, 0.08)
    batch_size: int = 256
    lr: float = 3e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    mixup: float = 0.3
    level_db: tuple[float, float] = (-8.0, 8.0)
    equaliser_db: float = 5.0
    mask: int = 5
    stretch: float = 0.1
    bend: tuple[float, float] = (0.14, 0.3)
    distill: float = 1.0
    temperature: float = 2.0
    hint: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class SoundScore:
    """Right answers in percent, over all recordings and for each speaker, and how many recordings there were."""

    top1: float
    by_speaker: dict[str, float]
    n: int


def fit_sounds(
    body: nn.Module,
    bank: Bank,
    speakers: Collection[str],
    config: SoundFitConfig | None = None,
    *,
    leave_out: Collection[str] = (),
    checkpoint: Path | None = None,
    progress: bool = True,
) -> nn.Module:
    """Train a copy of `body` (features (N, 1, frames, mels) to logits) on some speakers of a bank.

    Args:
        body: the network; it stays as it is. To learn from embeddings it needs `pooled` (features to a vector) and
            `answers` (that vector to logits), as SpeechBody has them.
        bank: of `make_bank`.
        speakers: names in `bank.speakers`, or "SET/*" for all of a set; windows of nobody else are looked at.
            "background" (noise alone) always counts.
        config: default SoundFitConfig().
        leave_out: names in `bank.names` of recordings that are not to be learnt from.
        checkpoint: written after every epoch; training goes on from there.
        progress: a bar on stderr.

    Returns:
        The trained network in eval mode, weights of the last epoch.
    """
    config = config or SoundFitConfig()
    pools = [p[~np.isin(bank.names[p], list(leave_out))] for p in _pools(bank, speakers)]
    taught = bank.embeddings is not None and (config.distill > 0 or config.hint > 0)
    lesson = _Lesson(body, bank, pools, config) if taught else None
    run = _Run(body, config, sorted(speakers), [len(p) for p in pools], lesson)
    if checkpoint is None:
        _train(run, bank, pools, None, progress)
    else:
        with locked(checkpoint):
            if checkpoint.exists():
                run.resume(checkpoint)
            _train(run, bank, pools, checkpoint, progress)
    return run.module.eval()


def teacher_of(bank: Bank, speakers: Collection[str], config: SoundFitConfig | None = None) -> Teacher:
    """The classifier of embeddings that `fit_sounds` lets a network learn from.

    Args:
        bank: with embeddings.
        speakers: as of `fit_sounds`.
        config: default SoundFitConfig().
    """
    config = config or SoundFitConfig()
    if bank.embeddings is None:
        raise InputError("this bank has no embeddings.", "it was made without ears.", "pass ears= to make_bank.")
    return fit_teacher(bank.embeddings, bank.targets, _pools(bank, speakers)[:3], config.shares[:3], config.seed)


def score_sounds(body: nn.Module, sounds: SoundSet, audio: Audio, recipe: LogMel) -> SoundScore:
    """Accuracy of a network that takes features, on recordings as they are, each in the middle of a window."""
    import torch

    features = np.stack(
        [log_mel(fit(w, audio.samples), audio.sample_rate, recipe) for w in sounds.waveforms(audio.sample_rate)]
    )
    with torch.inference_mode():
        parts = torch.from_numpy(features)[:, None].split(256)  # type: ignore[no-untyped-call]
        answers = torch.cat([body.eval()(part).argmax(1) for part in parts]).numpy()
    right = answers == sounds.y
    who = np.array(sounds.speakers)
    by_speaker = {name: 100 * float(right[who == name].mean()) for name in sorted(set(sounds.speakers))}
    return SoundScore(100 * float(right.mean()), by_speaker, len(sounds))


def _pools(bank: Bank, speakers: Collection[str]) -> list[np.ndarray]:
    """Indices of windows of people, of voices made from people, of synthetic voices, and of background."""
    sets = {name.removesuffix("/*") for name in speakers if name.endswith("/*")}
    known = np.unique(bank.speakers)
    wanted = [name for name in known if name in speakers or name.split("/")[0] in sets]
    if not wanted:
        raise InputError(
            f"the bank has nobody called {', '.join(speakers)}.",
            f"its speakers are {', '.join(known[:8])} ...",
            'name them as "SET/SPEAKER" or "SET/*".',
        )
    chosen = np.isin(bank.speakers, wanted)
    made = [np.char.startswith(bank.speakers.astype(str), f"{kind}/") for kind in ("talkers", "voices")]
    kinds = (chosen & ~made[0] & ~made[1], chosen & made[0], chosen & made[1], bank.speakers == "background")
    return [np.flatnonzero(part) for part in kinds]


class _Lesson:
    """What there is to learn from the embeddings of a bank."""

    def __init__(self, body: Any, bank: Bank, pools: Sequence[np.ndarray], config: SoundFitConfig) -> None:
        import torch
        from torch import nn

        assert bank.embeddings is not None
        self.embeddings, self.config = bank.embeddings, config
        self.teacher: Teacher = fit_teacher(bank.embeddings, bank.targets, pools[:3], config.shares[:3], config.seed)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(config.seed)
            seen = copy.deepcopy(body).eval().pooled(torch.zeros(1, 1, *bank.features.shape[1:]))
            self.foretell: nn.Module = nn.Linear(seen.shape[1], bank.embeddings.shape[1])

    def loss(self, pooled: Tensor, logits: Tensor, windows: np.ndarray, spoken: Tensor) -> Tensor:
        """Of the windows in which somebody speaks: an embedding of noise says nothing."""
        from torch.nn import functional

        heard, hot = self.embeddings[windows], self.config.temperature
        answers = self.teacher.answers(heard)
        apart = functional.kl_div((logits / hot).log_softmax(1), (answers / hot).softmax(1), reduction="none").sum(1)
        missed = (self.foretell(pooled) - self.teacher.hints(heard)).square().mean(1)
        each = self.config.distill * hot**2 * apart + self.config.hint * missed
        mean: Tensor = (each * spoken).sum() / spoken.sum().clamp(min=1)
        return mean


class _Run:
    """The state of one training: what a checkpoint holds."""

    def __init__(
        self,
        body: nn.Module,
        config: SoundFitConfig,
        speakers: list[str],
        sizes: Sequence[int],
        lesson: _Lesson | None = None,
    ) -> None:
        import torch

        self.config = config
        self.identity: dict[str, Any] = asdict(config) | {"speakers": speakers, "windows there": list(sizes)}
        self.module = copy.deepcopy(body).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.lesson = lesson
        parts = [self.module, *([lesson.foretell] if lesson else [])]
        learnt = [p for part in parts for p in part.parameters()]
        self.optimizer = torch.optim.AdamW(learnt, lr=config.lr, weight_decay=config.weight_decay)
        self.steps = config.epochs * (config.windows // config.batch_size)
        self.epoch = 0

    def rate(self, step: int) -> float:
        """Learning rate: cosine up over the first fifth, cosine down to nothing after it."""
        at = step / self.steps
        share = (1 - math.cos(math.pi * at / 0.2)) / 2 if at < 0.2 else (1 + math.cos(math.pi * (at - 0.2) / 0.8)) / 2
        return self.config.lr * (0.04 + 0.96 * share if at < 0.2 else share)

    def loss(self, x: Tensor, bank: Bank, windows: np.ndarray) -> Tensor:
        """Of features (N, 1, frames, mels) of these windows of the bank, each mixed with another one's."""
        import torch

        module: Any = self.module
        share, other = 1.0, np.arange(len(windows))
        if self.config.mixup > 0:
            share = float(torch.distributions.Beta(self.config.mixup, self.config.mixup).sample())
            other = torch.randperm(len(windows)).numpy()
            x = share * x + (1 - share) * x[torch.from_numpy(other)]
        pooled = None if self.lesson is None else module.pooled(x)
        logits = module(x) if pooled is None else module.answers(pooled)
        found = self._against(pooled, logits, bank, windows)
        if share < 1:
            found = share * found + (1 - share) * self._against(pooled, logits, bank, windows[other])
        return found

    def _against(self, pooled: Tensor | None, logits: Tensor, bank: Bank, windows: np.ndarray) -> Tensor:
        """Cross-entropy, and with it what the teacher has to say."""
        import torch
        from torch.nn import functional

        target = torch.from_numpy(bank.targets[windows])
        found = functional.cross_entropy(logits, target, label_smoothing=self.config.label_smoothing)
        if self.lesson is not None and pooled is not None:
            spoken = torch.from_numpy(bank.speakers[windows] != "background")
            found = found + self.lesson.loss(pooled, logits, windows, spoken)
        return found

    def save(self, path: Path) -> None:
        import torch

        state = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.lesson is not None:
            state["foretell"] = self.lesson.foretell.state_dict()
        with writing_file(path) as temporary:
            torch.save(state | {"identity": repr(self.identity), "epoch": self.epoch}, temporary)

    def resume(self, path: Path) -> None:
        import torch

        again = f"delete {path} to start again, or pass another checkpoint path."
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            identity = saved["identity"]
        except Exception as error:
            raise DataError(f"checkpoint {path} can't be read.", f"{type(error).__name__}.", again) from error
        if identity != repr(self.identity):
            raise DataError(f"checkpoint {path} belongs to another run.", f"it was {identity[:200]}.", again)
        self.module.load_state_dict(saved["module"])
        if self.lesson is not None:
            self.lesson.foretell.load_state_dict(saved["foretell"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.epoch = saved["epoch"]


def _train(run: _Run, bank: Bank, pools: list[np.ndarray], path: Path | None, progress: bool) -> None:
    import torch
    from tqdm import tqdm

    per_epoch = run.steps // run.config.epochs
    with (
        torch.random.fork_rng(devices=[]),
        tqdm(total=run.steps, initial=run.epoch * per_epoch, disable=not progress, unit="step", leave=False) as bar,
    ):
        while run.epoch < run.config.epochs:
            seed = run.config.seed * 100_003 + run.epoch
            torch.manual_seed(seed)
            loss = _epoch(run, bank, _draw(pools, run.config, np.random.default_rng(seed)), bar)
            run.epoch += 1
            bar.set_postfix_str(f"epoch {run.epoch}/{run.config.epochs} loss {loss:.3f}")
            if path is not None:
                run.save(path)


def _draw(pools: list[np.ndarray], config: SoundFitConfig, rng: np.random.Generator) -> np.ndarray:
    shares = np.array([share if len(pool) else 0.0 for pool, share in zip(pools, config.shares, strict=True)])
    counts = (shares / shares.sum() * config.windows).astype(int)
    order = np.concatenate([rng.choice(p, n) for p, n in zip(pools, counts, strict=True) if n])
    rng.shuffle(order)
    return order


def _epoch(run: _Run, bank: Bank, order: np.ndarray, bar: tqdm[Any]) -> float:
    import torch

    run.module.train()
    config, total = run.config, 0.0
    count = run.steps // config.epochs
    for step in range(count):
        some = np.sort(order[step * config.batch_size : (step + 1) * config.batch_size])
        x = masked(torch.from_numpy(bank.features[some].astype(np.float32)), config)
        for group in run.optimizer.param_groups:
            group["lr"] = run.rate(run.epoch * count + step)
        loss = run.loss(x[:, None], bank, some)
        run.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        run.optimizer.step()
        total += loss.item()
        bar.update()
    return total / count
